"""Safe reading of tensor files: no code in them is executed.

A PyTorch file is a pickle, which can call any function. Only this module opens such files, with
PyTorch's restricted unpickler, which accepts tensors and plain values and refuses other names.
"""

import pickle
import re
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import scalar
from torch.serialization import safe_globals

from xmodal.errors import UserError

# Numbers of NumPy, such as a best accuracy that was saved beside weights.
_NUMBERS: list[Any] = [scalar, np.dtype, *{type(np.dtype(code)) for code in "?bhilqBHILQefd"}]
# Of safetensors: room for some 100,000 tensors, each of which takes kilobytes to be read.
_MAX_HEADER_BYTES = 1 << 23
DAMAGED = "holds no tensors, or is damaged; restore it, or download it again"
_NAME = re.compile(r"GLOBAL ([\w.]+)")  # in what PyTorch's reader says


def load_tensors(
    path: Path, *, types: Sequence[type | tuple[type, str]] = (), mapped: bool = False
) -> Any:
    """Return the contents of a PyTorch or safetensors file, on the CPU.

    Accept objects of `types` besides tensors, plain values and NumPy's numbers; a pair
    (type, name) substitutes a type for the one that the file calls by that name. With `mapped`,
    tensors are read from the disk on first use. Raises `UserError` for a file that cannot be read
    or contains other objects.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing")
    check_tensor_file(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with safe_globals([*_NUMBERS, *types]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that it then refuses
            return torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} {refusal(str(error))}") from None
    except OSError:
        raise
    except Exception as error:  # a reader raises whatever the bytes lead it to
        raise UserError(f"{path} {DAMAGED}") from error


def check_tensor_file(path: Path) -> None:
    """Raise `UserError` if a file would take more memory than it has bytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
    if path.suffix == ".safetensors":
        header = int.from_bytes(first, "little")
        if len(first) < 8 or header > size - 8:
            raise UserError(f"{path} {DAMAGED}")
        if header > _MAX_HEADER_BYTES:
            raise UserError(
                f"{path} is refused: its header is {header:,} bytes, of at most "
                f"{_MAX_HEADER_BYTES:,}"
            )
    elif first.startswith(b"PK\x03\x04"):
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
        except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError):
            raise UserError(f"{path} {DAMAGED}") from None
        stored = all(one.compress_type == zipfile.ZIP_STORED for one in members)
        if not stored or sum(one.file_size for one in members) > size:
            raise UserError(
                f"{path} is refused: it is compressed, which PyTorch's files are not; save it by "
                "torch.save"
            )


def refusal(message: str) -> str:
    """Translate an error message of PyTorch's restricted unpickler."""
    asked = _NAME.search(message)
    if asked is None:
        return DAMAGED
    return (
        f"is refused: it asks for {asked[1]}, and a file of tensors holds no code; "
        "save the tensors alone (a state dict, or safetensors)"
    )
