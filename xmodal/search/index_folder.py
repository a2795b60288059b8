"""Index folder: the vectors of an embeddings folder in one file a side, with their metadata.

index.json                    description; it is written last
images.npy, texts.npy         vectors (rows × K, dim), of the embeddings' type, memory-mapped
images.arrow, texts.arrow     a record for each row; that of a text has its image's row
images.faiss, texts.faiss     the approximate index, where there is one
images.lists, texts.lists     its inverted lists
"""

import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from xmodal.errors import UserError
from xmodal.search.approximate import Approximation
from xmodal.search.embeddings import DataInfo, ModelInfo

INFO = "index.json"
VERSION = 1
Kind = Literal["exact", "ivf", "hnsw"]
IndexedSide = Literal["images", "texts"]
SIDES: tuple[IndexedSide, ...] = ("images", "texts")


class ApproximationInfo(BaseModel):
    """Approximate index of a side."""

    factory: str  # faiss' name of it, such as IVF4096,SQ8
    effort: int  # nprobe of ivf, efSearch of hnsw
    recall: dict[str, float]  # at 10, against exact search, by the side that queries are from
    queries: int  # that it was measured with, of each side


class SideInfo(BaseModel):
    """Indexed vectors of a side."""

    rows: int  # items; each has K vectors
    longest: float  # length of the longest vector, rounded up
    approximation: ApproximationInfo | None = None  # None: exact search


class IndexInfo(BaseModel):
    """Description of an index: index.json."""

    version: int = VERSION
    kind: Kind
    memory: int  # bytes that were allowed to the build
    embeddings: str  # absolute URL
    model: ModelInfo
    data: DataInfo
    dim: int
    embeddings_per_item: int  # K
    dtype: Literal["float16", "float32"]
    sides: dict[IndexedSide, SideInfo]


@dataclass(frozen=True)
class Side:
    """A side of an index, memory-mapped."""

    folder: Path
    name: IndexedSide
    info: SideInfo
    embeddings_per_item: int

    def __len__(self) -> int:
        return self.info.rows

    def check(self, dim: int) -> None:
        """Open all files; raises `UserError` where one is missing, or is not of these rows."""
        if self.vectors.shape[-1] != dim:
            raise _damaged(self.vector_path, f"vectors of {self.vectors.shape[-1]} numbers")
        _ = self.metadata
        if self.approximation is not None:
            self.approximation.check(len(self) * self.embeddings_per_item, dim)

    @property
    def vector_path(self) -> Path:
        """File of the vectors."""
        return self.folder / f"{self.name}.npy"

    @cached_property
    def vectors(self) -> Tensor:
        """Vectors (rows, dim) of every row, or (rows, K, dim); never written to."""
        path = self.vector_path
        try:
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise _damaged(path, error) from None
        each = self.embeddings_per_item
        if mapped.ndim != 2 or len(mapped) != len(self) * each:
            raise _damaged(path, f"shape {mapped.shape} for {len(self)} rows")
        with warnings.catch_warnings(action="ignore"):  # that it cannot be written to
            vectors = torch.from_numpy(mapped)
        return vectors if each == 1 else vectors.view(len(self), each, -1)

    @cached_property
    def approximation(self) -> Approximation | None:
        """The approximate index; None where search is exact."""
        info = self.info.approximation
        if info is None:
            return None
        path = self.folder / f"{self.name}.faiss"
        return Approximation(path, info.factory, info.effort, self.embeddings_per_item)

    @cached_property
    def metadata(self) -> pa.Table:
        """A record for each row."""
        path = self.folder / f"{self.name}.arrow"
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        except (OSError, pa.ArrowException) as error:
            raise _damaged(path, error) from None
        if len(table) != len(self):
            raise _damaged(path, f"{len(table)} records of {len(self)} rows")
        return table

    def record(self, row: int) -> dict[str, Any]:
        """Return the metadata of a row; `UserError` where there is no such row."""
        if not 0 <= row < len(self):
            raise UserError(f"there is no row {row} among the {len(self):,} {self.name}")
        found: dict[str, Any] = self.metadata.slice(row, 1).to_pylist()[0]
        return found


@dataclass(frozen=True)
class IndexFolder:
    """A finished index, opened for reading."""

    path: Path
    info: IndexInfo

    @classmethod
    def open(cls, path: str | Path) -> "IndexFolder":
        """Open an index; raises `UserError` where there is none, or it is damaged."""
        info = read_index_info(Path(path))
        if info is None:
            raise UserError(f"{path} has no {INFO}: name a folder that launch/index.py wrote")
        opened = cls(Path(path), info)
        for side in opened.sides.values():
            side.check(info.dim)
        return opened

    @cached_property
    def sides(self) -> dict[IndexedSide, Side]:
        """The sides that are indexed, by name."""
        each = self.info.embeddings_per_item
        return {name: Side(self.path, name, one, each) for name, one in self.info.sides.items()}

    def side(self, name: IndexedSide) -> Side:
        """Return a side; raises `UserError` where the index has none of it."""
        if name not in self.sides:
            known = " and ".join(self.sides)
            raise UserError(f"{self.path} has no {name} to search, only {known}")
        return self.sides[name]


def read_index_info(path: Path) -> IndexInfo | None:
    """Return the description of an index; None where there is none.

    Raises `UserError` where it is damaged, or of a later version.
    """
    file = path / INFO
    try:
        info = IndexInfo.model_validate_json(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        raise _damaged(file, error.errors()[0]["msg"]) from None
    if info.version > VERSION:
        raise UserError(f"{file} is of version {info.version}; this xmodal reads {VERSION}")
    return info


def _damaged(path: Path, reason: object) -> UserError:
    return UserError(f"{path} is damaged ({reason}); index the embeddings again")
