"""Environment variables that torch reads once: as it is imported, or as it meets the first GPU."""

import os

_ALLOCATORS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")


def set_torch_environment() -> None:
    """Set what torch should read, before it is imported, unless the user has set it."""
    if not any(name in os.environ for name in _ALLOCATORS):
        # Segments that grow: captions, tiles and evaluations differ in size, and pieces of fixed
        # segments that fit none of them would be lost.
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    # Connections that are tried again as ranks meet are warned of in C++, line upon line.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
