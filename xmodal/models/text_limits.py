"""Limits of text models of transformers, checked before memory is allocated."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from xmodal.data.tokens import MAX_TOKENIZER_BYTES
from xmodal.errors import UserError
from xmodal.tensor_files import check_tensor_file

_MAX_NUMBER = 10_000_000  # in a config.json, such as words of a vocabulary
_MAX_COUNTS = {"layer": 1_000, "expert": 1_000, "label": 100_000}  # by a part of the key
_WEIGHTS = ("*.safetensors", "*.bin")


def check_files(folder: Path) -> None:
    """Raise `ValueError` where a file of a folder is none, or would take too much memory."""
    for path in [path for kind in ("*.json", "*.txt", "*.model") for path in folder.glob(kind)]:
        if path.stat().st_size > MAX_TOKENIZER_BYTES or not path.is_file():
            raise ValueError(f"{path.name} is no file of at most {MAX_TOKENIZER_BYTES:,} bytes")
    for path in _weights(folder):
        try:
            check_tensor_file(path)
        except UserError as error:
            raise ValueError(str(error)) from None


def check_numbers(settings: Mapping[str, Any]) -> None:
    """Raise `ValueError` where a whole number of a `config.json` is absurd."""
    for key, number in _numbers(settings, ""):
        limit = min([most for part, most in _MAX_COUNTS.items() if part in key] or [_MAX_NUMBER])
        if number > limit:
            raise ValueError(f"its config.json has {key}: {number}, and at most {limit:,} is read")


def check_size(settings: Any, folder: str) -> None:
    """Raise `ValueError` where a model is larger than this machine's memory, or than its weights.

    `folder` is that of the weights, "" where they are drawn at random.
    """
    from transformers import AutoModel

    with torch.device("meta"):
        model = AutoModel.from_config(settings, dtype=torch.float32, trust_remote_code=False)
    tensors = [*model.parameters(), *model.buffers()]
    numbers = sum(tensor.numel() for tensor in tensors)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if 4 * numbers > memory:
        raise ValueError(
            f"by its config.json it takes {4 * numbers:,} bytes, and this machine has {memory:,}"
        )
    stored = sum(path.stat().st_size for path in _weights(Path(folder))) if folder else 0
    if stored and numbers > stored:
        raise ValueError(
            f"by its config.json it has {numbers:,} weights, and its files have {stored:,} bytes"
        )


def _weights(folder: Path) -> list[Path]:
    return [path for kind in _WEIGHTS for path in sorted(folder.glob(kind))]


def _numbers(value: Any, key: str) -> Iterator[tuple[str, int]]:
    """Yield the whole numbers within a value of JSON, each with the key that it belongs to."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield from _numbers(one, str(name))
    elif isinstance(value, list):
        for one in value:
            yield from _numbers(one, key)
    elif isinstance(value, int):
        yield key, value
