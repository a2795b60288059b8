"""Sources of pretrained models: a local folder or file, or a name at the Hugging Face hub."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from xmodal.errors import UserError
from xmodal.formats.dual_encoder import DualEncoder
from xmodal.hub import HUB, asking_hub, hub_failure
from xmodal.small_files import read_small

# In the order in which they are tried. Each has `recognises(path)` and `read(path)`.
FORMATS = ("openai_archive", "open_clip", "sentence_transformers", "hugging_face", "big_vision")
# Files of a repository: all but weights of other frameworks and in other precisions.
_SETTINGS = ["*.json", "*.txt", "*.model"]


def read_source(source: str) -> DualEncoder:
    """Return the model of a source; its weights are read when they are asked for.

    Raises `UserError` where there is no such folder, file or repository, or no format knows it.
    """
    path = locate(source)
    for name in FORMATS:
        module: Any = import_module(f"xmodal.formats.{name}")
        if module.recognises(path):
            found: DualEncoder = module.read(path)
            return found
    raise UserError(
        f"{source} is in no format that xmodal reads ({', '.join(FORMATS)}): {_fault(path)}"
    )


def _fault(path: Path) -> str:
    """Return why no format knows a folder or file."""
    config = path / "config.json"
    if not path.is_dir():
        return "it is a single file of another kind, or is damaged"
    if not config.is_file():
        return "it has none of their files"
    try:
        kind = json.loads(read_small(config)).get("model_type")
    except (OSError, ValueError, AttributeError):
        return "its config.json is damaged; download it again"
    return (
        f"its config.json is of a model of type {kind}, without two towers; name a model of text "
        "alone by method.text={kind: transformers, name: FOLDER}"
    )


def locate(source: str) -> Path:
    """Return a source's local folder or file, downloaded from the hub where it is a name there."""
    path = Path(source).expanduser()
    if not source.startswith(HUB) and path.exists():
        return path
    name = source.removeprefix(HUB)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(
            f"there is no folder or file {source}; give one, or a name at the hub, such as "
            "openai/clip-vit-base-patch32"
        )
    return _download(name)


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        with asking_hub():
            folder = Path(snapshot_download(name, allow_patterns=[*_SETTINGS, "*.safetensors"]))
            if not any(folder.glob("*.safetensors")):
                snapshot_download(name, allow_patterns=["*.bin", "*.pt", "*.npz"])
    except Exception as error:  # of the connection, of the hub, of the name: each its own
        raise UserError(
            f"there is no folder {name} here, and the hub gave none by that name: "
            f"{hub_failure(error)}"
        ) from None
    return folder
