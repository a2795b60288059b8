"""Embeddings folder: vectors of a shard set and the metadata of their rows, one part a shard.

The layout is clip-retrieval's (`img_emb/img_emb_0000.npy`, `metadata/metadata_0000.parquet`), which
autofaiss reads too. A method with K embeddings an item has K rows of a vector file for each item.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ValidationError

from xmodal.data.storage import Storage, is_remote, open_storage, split_url
from xmodal.data.storage.config import StorageConfig
from xmodal.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

INFO = "embeddings.json"
VERSION = 1
MAX_INFO_BYTES = 2**29  # it lists every shard
Side = Literal["images", "texts", "queries"]
# The folder of each side's vectors, and of the metadata of its rows.
VECTORS: dict[Side, str] = {"images": "img_emb", "texts": "text_emb", "queries": "query_emb"}
METADATA: dict[Side, str] = {
    "images": "metadata",
    "texts": "text_metadata",
    "queries": "query_metadata",
}


class ModelInfo(BaseModel):
    """The model of a folder of embeddings: what `xmodal.load` takes, and its digest."""

    source: str  # absolute path, or the name at a hub
    checkpoint: str | None = None  # of a run: step-N
    weights: str | None = None  # of a run: averaged or trained
    width: int | None = None  # that embeddings are cut to
    method: str  # its kind
    digest: str


class DataInfo(BaseModel):
    """The shard set of a folder of embeddings."""

    url: str  # absolute
    fingerprint: str
    shards: list[str]  # URL of the shard of each part


class EmbeddingsInfo(BaseModel):
    """Description of a folder of embeddings: embeddings.json.

    What is None is known when all parts are written.
    """

    version: int = VERSION
    model: ModelInfo
    data: DataInfo
    dim: int
    embeddings_per_item: int  # K
    dtype: Literal["float16", "float32"]
    sides: list[Side]
    parts: int
    samples: int | None = None  # that were used
    rows: dict[Side, int] | None = None  # items: a K-th of the vectors
    faults: dict[str, int] | None = None  # bad samples by cause
    dropped: dict[str, int] | None = None  # captions and labels by cause
    samples_per_second: float | None = None  # null where nothing was left to embed

    @property
    def is_finished(self) -> bool:
        """True once all parts are written."""
        return self.samples is not None


def part_url(folder: str, name: str, part: int, extension: str) -> str:
    """Return the URL of a part's file, such as `img_emb/img_emb_0000.npy`."""
    return f"{folder}/{name}/{name}_{part:04d}.{extension}"


def read_info(folder: str, storage: Storage) -> EmbeddingsInfo | None:
    """Read the embeddings.json of a folder; None where there is none.

    Raises `UserError` where it is damaged, or of a later version.
    """
    url = f"{folder}/{INFO}"
    size = storage.list(folder).get(INFO)
    if size is None:
        return None
    if size > MAX_INFO_BYTES:
        raise UserError(f"{url} is over {MAX_INFO_BYTES:,} bytes; restore it, or embed again")
    try:
        info = EmbeddingsInfo.model_validate_json(storage.read(url))
    except ValidationError as error:
        cause = error.errors()[0]["msg"]
        raise UserError(f"{url} is damaged ({cause}); restore it, or embed again") from None
    if info.version > VERSION:
        raise UserError(f"{url} is of version {info.version}; this xmodal reads {VERSION}")
    return info


@dataclass(frozen=True)
class Part:
    """The embeddings of one shard."""

    folder: str
    number: int
    info: EmbeddingsInfo
    storage: Storage = field(repr=False)

    @property
    def shard(self) -> str:
        """URL of the shard."""
        return self.info.data.shards[self.number]

    def vectors(self, side: Side = "images") -> np.ndarray:
        """Return (rows × K, dim) float16 or float32, memory-mapped where the folder is local."""
        url = part_url(self.folder, VECTORS[side], self.number, "npy")
        try:
            if is_remote(url):
                data = io.BytesIO(self.storage.read(url))
                vectors = np.load(data, allow_pickle=False)
            else:
                vectors = np.load(url, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise UserError(f"{url} is missing; embed again to complete the folder") from None
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{url} is damaged ({error}); remove it, and embed again") from None
        self._check(url, vectors)
        return vectors

    def metadata(self, columns: Sequence[str] | None = None) -> "pa.Table":
        """Return a row for each image: key, caption, url, width, height, labels, shard, offset,
        size, image_id, number and uid.
        """
        return self._table("images", columns)

    def captions(self) -> "pa.Table":
        """Return a row for each caption: the row of its image within the part, and its text."""
        return self._table("texts", None)

    def queries(self) -> "pa.Table":
        """Return a row for each composed query: key, caption (its modification), shard, offset and
        size of its source, number, and the row of its target within the part, or null.
        """
        return self._table("queries", None)

    def _table(self, side: Side, columns: Sequence[str] | None) -> "pa.Table":
        import pyarrow as pa
        import pyarrow.parquet as pq

        url = part_url(self.folder, METADATA[side], self.number, "parquet")
        source = pa.BufferReader(self.storage.read(url)) if is_remote(url) else url
        try:
            return pq.read_table(source, columns=list(columns) if columns else None)
        except FileNotFoundError:
            raise UserError(f"{url} is missing; embed again to complete the folder") from None
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{url} is damaged ({error}); remove it, and embed again") from None

    def _check(self, url: str, vectors: np.ndarray) -> None:
        shape, each = vectors.shape, self.info.embeddings_per_item
        if vectors.dtype != self.info.dtype or len(shape) != 2 or shape[1] != self.info.dim:
            found = f"{vectors.dtype} of shape {shape}"
            raise UserError(f"{url} holds {found}; {INFO} says {self.info.dtype}, {self.info.dim}")
        if shape[0] % each:
            raise UserError(f"{url} has {shape[0]} rows, not {each} for each item")


class Embeddings:
    """A finished folder of embeddings, on disk or in a bucket, for reading.

    Raises `UserError` where there is none, or where parts of it are not written yet.
    """

    def __init__(self, url: str | Path, access: Iterable[StorageConfig] = ()) -> None:
        self.url = str(url).rstrip("/") or str(url)
        self.storage = open_storage(self.url, access)
        info = read_info(self.url, self.storage)
        if info is None:
            raise UserError(f"{self.url} has no {INFO}: name a folder that launch/embed.py wrote")
        if not info.is_finished:
            raise UserError(f"{self.url} is not finished: rerun the command that embeds into it")
        self.info = info

    @cached_property
    def parts(self) -> list[Part]:
        """The parts in the order of the shards."""
        return [Part(self.url, n, self.info, self.storage) for n in range(self.info.parts)]

    def __iter__(self) -> Iterator[Part]:
        return iter(self.parts)

    def num_rows(self, side: Side = "images") -> int:
        """Return the number of items of a side; each has K vectors."""
        return (self.info.rows or {}).get(side, 0)


def finished_parts(folder: str, storage: Storage) -> set[int]:
    """Return the numbers of the parts that are written: metadata come last."""
    name = METADATA["images"]
    listed = (split_url(one)[1] for one in storage.list(f"{folder}/{name}"))
    stems = (one.removeprefix(f"{name}_").removesuffix(".parquet") for one in listed)
    return {int(stem) for stem in stems if stem.isdecimal()}
