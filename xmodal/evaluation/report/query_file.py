"""`queries.safetensors`, beside results.json: the results of each query."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from xmodal.atomic_files import write_bytes_atomically
from xmodal.errors import UserError
from xmodal.evaluation.per_query import PerQuery, Role
from xmodal.tensor_files import check_tensor_file

FILE = "queries.safetensors"


def write_queries(folder: Path, results: str, found: Sequence[PerQuery]) -> None:
    """Write the file that belongs to a `results.json` of this text; ranks and values in 32 bits."""
    from safetensors.numpy import save

    arrays: dict[str, np.ndarray] = {}
    groups = []
    for place, one in enumerate(found):
        parts = {"numbers": one.numbers, "captions": one.captions}
        parts |= {f"ranks.{n}": values.int() for n, values in enumerate(one.ranks.values())}
        parts |= {f"values.{n}": values.float() for n, values in enumerate(one.values.values())}
        arrays |= {
            f"{place}.{name}": part.cpu().contiguous().numpy() for name, part in parts.items()
        }
        groups.append([one.name, one.role, [*one.ranks], [*one.values]])
    metadata = {"results": _digest(results), "groups": json.dumps(groups)}
    write_bytes_atomically(folder / FILE, save(arrays, metadata))


def read_queries(folder: Path, results: str) -> dict[str, PerQuery] | None:
    """Return the results of queries, by name; None where there are none that belong to a
    `results.json` of this text, as of an earlier version.

    Raises `UserError` for a damaged file.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / FILE
    if not path.is_file():
        return None
    try:
        check_tensor_file(path)
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("results") != _digest(results):
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        found = [_group(n, tensors, *one) for n, one in enumerate(json.loads(metadata["groups"]))]
    except (
        UserError,
        SafetensorError,
        LookupError,
        TypeError,
        ValueError,
        RecursionError,
    ) as error:
        raise UserError(f"{path} is damaged; evaluate again, or remove it") from error
    return {one.name: one for one in found}


def _group(
    place: int,
    tensors: dict[str, Tensor],
    name: str,
    role: Role,
    ranks: list[str],
    values: list[str],
) -> PerQuery:
    if role not in get_args(Role):
        raise ValueError(role)
    numbers, captions = (tensors[f"{place}.{one}"].long() for one in ("numbers", "captions"))
    found = PerQuery(
        str(name),
        role,
        numbers,
        captions,
        {str(one): tensors[f"{place}.ranks.{n}"].long() for n, one in enumerate(ranks)},
        {str(one): tensors[f"{place}.values.{n}"].double() for n, one in enumerate(values)},
    )
    columns = [numbers, captions, *found.ranks.values(), *found.values.values()]
    if not all(one.shape == numbers.shape and one.ndim == 1 for one in columns):
        raise ValueError("columns of other lengths")
    if not all(bool(torch.isfinite(one).all()) for one in found.values.values()):
        raise ValueError("values that are not finite")
    return found


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
