"""OpenAI's files of CLIP (`ViT-B-32.pt`): TorchScript archives, of which only tensors are read.

TorchScript would run the archive's code. Here its pickle is read by a reader that makes no object
but tensors and modules without code, and the rest of the archive is ignored.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xmodal.errors import UserError
from xmodal.formats.dual_encoder import DualEncoder
from xmodal.formats.open_clip import model_of
from xmodal.formats.tensors import LazyTensors

_MAX_PICKLE_BYTES = 1 << 24
_HEAD_WIDTH = 64  # of all its models
_NUMBERS = {"input_resolution", "context_length", "vocab_size"}  # kept as tensors beside weights
_DTYPES = {
    "HalfStorage": torch.float16,
    "FloatStorage": torch.float32,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}


def recognises(path: Path) -> bool:
    """Return True for a TorchScript archive."""
    if not (path.is_file() and zipfile.is_zipfile(path)):
        return False
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return any("/code/" in name for name in names) and any(n.endswith("/data.pkl") for n in names)


def read(path: Path) -> DualEncoder:
    """Return the model of an archive; its weights are read when they are asked for.

    Raises `UserError` for an archive of another model, or one that is damaged.
    """
    tensors = LazyTensors(dict(_tensors(path)))
    try:
        settings = _settings(tensors)
    except (KeyError, ZeroDivisionError) as error:
        raise UserError(f"{path} is no CLIP of OpenAI with a vision transformer: {error}") from None
    return model_of(settings, {}, tensors, path)


def _settings(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return open_clip's settings of a model, by the shapes of its tensors."""
    width, _, patch, _ = tensors["visual.conv1.weight"].shape
    side = round((len(tensors["visual.positional_embedding"]) - 1) ** 0.5)
    text_width = len(tensors["ln_final.weight"])
    return {
        "embed_dim": tensors["text_projection"].shape[1],
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": patch * side,
            "patch_size": patch,
            "width": width,
            "head_width": _HEAD_WIDTH,
            "layers": _layers(tensors, "visual.transformer"),
        },
        "text_cfg": {
            "context_length": len(tensors["positional_embedding"]),
            "vocab_size": len(tensors["token_embedding.weight"]),
            "width": text_width,
            "heads": text_width // _HEAD_WIDTH,
            "layers": _layers(tensors, "transformer"),
        },
    }


def _layers(tensors: Mapping[str, Tensor], tower: str) -> int:
    prefix = f"{tower}.resblocks."
    return len({name[len(prefix) :].split(".")[0] for name in tensors if name.startswith(prefix)})


class _Module:
    """A module of the archive: its attributes, without any code."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class _Storage(NamedTuple):
    """Numbers of a tensor, which lie in a file of the archive."""

    dtype: torch.dtype
    key: str


class _Stored(NamedTuple):
    """A tensor that is not yet read."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def _stored(storage: _Storage, offset: int, size: Any, stride: Any, *_: Any) -> _Stored:
    return _Stored(storage, offset, tuple(size), tuple(stride))


class _Reader(pickle.Unpickler):
    """A reader of an archive's pickle that knows no names but those of tensors and modules."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name; raises `UnpicklingError` for any other."""
        if module.startswith("__torch__"):
            return _Module
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): _stored,
            ("collections", "OrderedDict"): OrderedDict,
            ("torch.jit._pickle", "build_intlist"): list,
        }
        if (module, name) in known:
            return known[module, name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        """Return the place of a tensor's numbers."""
        _, dtype, key, *_ = pid
        return _Storage(dtype, str(key))


def _tensors(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the tensors of an archive by name, as functions that read them."""
    with zipfile.ZipFile(path) as archive:
        file = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        _check_sizes(path, archive, file)
        data = archive.read(file)
    try:
        module = _Reader(io.BytesIO(data)).load()
    except Exception as error:  # a pickle leads its reader to whatever error
        raise UserError(f"{path} is no CLIP of OpenAI, or is damaged: {error}") from None
    folder = file.removesuffix("data.pkl")
    for name, stored in _named(module, ""):
        if name not in _NUMBERS:
            yield name, partial(_read, path, f"{folder}data/{stored.storage.key}", stored)


def _check_sizes(path: Path, archive: zipfile.ZipFile, file: str) -> None:
    """Raise `UserError` for an archive that would take more memory than it has bytes."""
    folder = file.removesuffix("data.pkl") + "data/"
    # Of code, which is not read, the members are compressed.
    numbers = [one for one in archive.infolist() if one.filename.startswith(folder)]
    stored = all(one.compress_type == zipfile.ZIP_STORED for one in numbers)
    whole = sum(one.file_size for one in numbers) <= path.stat().st_size
    if not (stored and whole and archive.getinfo(file).file_size <= _MAX_PICKLE_BYTES):
        raise UserError(f"{path} is refused: it is no archive as PyTorch writes them")


def _named(module: Any, prefix: str) -> Iterator[tuple[str, _Stored]]:
    for name, value in getattr(module, "__dict__", {}).items():
        if isinstance(value, _Stored):
            yield prefix + name, value
        elif isinstance(value, _Module):
            yield from _named(value, f"{prefix}{name}.")


def _read(path: Path, file: str, stored: _Stored) -> Tensor:
    try:
        with zipfile.ZipFile(path) as archive:
            numbers = torch.frombuffer(bytearray(archive.read(file)), dtype=stored.storage.dtype)
        return numbers.as_strided(stored.size, stored.stride, stored.offset)
    except (KeyError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged: {error}") from None
