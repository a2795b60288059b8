"""Writing of one part of an embeddings folder: rows as they come, whole or not there."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from tempfile import TemporaryFile
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from xmodal.data.batch import Fault
from xmodal.data.storage import Storage
from xmodal.errors import UserError
from xmodal.search.embeddings import METADATA, VECTORS, EmbeddingsInfo, Side, part_url

ROW_GROUP = 8192  # rows of a table that are held until they are written
_CHUNK = 8 * 2**20  # bytes

_PLACE = [
    ("shard", pa.string()),  # name of the tar
    ("offset", pa.int64()),  # of the encoded image in it
    ("size", pa.int64()),  # in bytes
    ("number", pa.int64()),  # of the sample in its shard
]
IMAGE_ROWS = pa.schema(
    [
        ("key", pa.string()),
        ("caption", pa.string()),  # the first one
        ("url", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("labels", pa.list_(pa.string())),
        *_PLACE,
        ("image_id", pa.string()),
        ("uid", pa.string()),
    ]
)
TEXT_ROWS = pa.schema([("row", pa.int64()), ("caption", pa.string())])
QUERY_ROWS = pa.schema([("key", pa.string()), *TEXT_ROWS, *_PLACE])
SCHEMAS: dict[Side, pa.Schema] = {
    "images": IMAGE_ROWS,
    "texts": TEXT_ROWS,
    "queries": QUERY_ROWS,
}
SUMMARY = b"xmodal"  # key of a part's summary in its metadata


@dataclass
class PartSummary:
    """Counts of a part, which its metadata hold, and what they are of."""

    model: str  # digest
    shard: str  # fingerprint
    samples: int = 0
    rows: dict[Side, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)


@contextmanager
def write_part(
    folder: str, number: int, info: EmbeddingsInfo, shard: str, storage: Storage
) -> Iterator["PartWriter"]:
    """Open a part for writing; `shard` is the fingerprint of its shard.

    Its files appear when the block ends, metadata last. Where the block raises, or the process is
    killed, the part does not count as written.
    """
    with ExitStack() as stack:
        part = PartWriter(folder, number, info, shard, storage, stack)
        yield part
        part.finish()


class PartWriter:
    """Files of a part, written row by row: see `write_part`."""

    def __init__(
        self,
        folder: str,
        number: int,
        info: EmbeddingsInfo,
        shard: str,
        storage: Storage,
        stack: ExitStack,
    ) -> None:
        self.folder, self.number, self.storage, self.stack = folder, number, storage, stack
        self.summary = PartSummary(info.model.digest, shard, rows=dict.fromkeys(info.sides, 0))
        self._faults: BinaryIO | None = None
        # They are closed in reverse order: last the images' metadata, which mark the part as done.
        self._tables = {
            side: TableFile(self._create(METADATA[side], "parquet"), SCHEMAS[side], stack)
            for side in dict.fromkeys(("images", *info.sides))
        }
        self._vectors = {
            side: VectorFile(self._create(VECTORS[side], "npy"), info) for side in info.sides
        }

    def add(self, side: Side, vectors: np.ndarray, records: Sequence[dict[str, Any]]) -> None:
        """Write items of a side: vectors (items, dim) or (items, K, dim), a record for each."""
        assert len(vectors) == len(records), f"{len(vectors)} vectors, {len(records)} records"
        self._vectors[side].add(vectors)
        self._tables[side].add(records)
        self.summary.rows[side] += len(records)

    def add_faults(self, faults: Sequence[Fault]) -> None:
        """Write bad samples, and parts that were dropped of good ones, a line each."""
        for fault in faults:
            if self._faults is None:
                self._faults = self._create("faults", "jsonl")
            line: dict[str, Any] = {"shard": fault.shard, "key": fault.key, "cause": fault.cause}
            line |= {"partial": True} if fault.partial else {}
            self._faults.write(json.dumps(line).encode() + b"\n")
        summary, bad = self.summary, [fault for fault in faults if not fault.partial]
        summary.faults = add_counts(summary.faults, Counter(one.cause for one in bad))
        dropped = Counter(one.cause for one in faults if one.partial)
        summary.dropped = add_counts(summary.dropped, dropped)

    def finish(self) -> None:
        """Write what is known at the end: numbers of rows, and the summary."""
        summary = json.dumps(asdict(self.summary), sort_keys=True).encode()
        for file in self._vectors.values():
            file.finish()
        for table in self._tables.values():
            table.finish({SUMMARY: summary})

    def _create(self, name: str, extension: str) -> BinaryIO:
        url = part_url(self.folder, name, self.number, extension)
        return self.stack.enter_context(create_seekable(url, self.storage))


class VectorFile:
    """Array in NumPy's format whose number of rows is known at its end."""

    def __init__(self, file: BinaryIO, info: EmbeddingsInfo) -> None:
        self.file, self.dim, self.dtype = file, info.dim, np.dtype(info.dtype)
        self.rows = 0
        self._write_header()

    def add(self, vectors: np.ndarray) -> None:
        """Write vectors (…, dim)."""
        rows = vectors.reshape(-1, self.dim).astype(self.dtype)
        self.file.write(rows.tobytes())
        self.rows += len(rows)

    def finish(self) -> None:
        """Write the number of rows."""
        self.file.seek(0)
        self._write_header()

    def _write_header(self) -> None:
        # NumPy leaves room for the digits of the first axis, so that the size stays the same.
        shape = (self.rows, self.dim)
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.file, header)


class TableFile:
    """Parquet file that is written a group of rows at a time, and closed by `stack`."""

    def __init__(self, file: BinaryIO, schema: pa.Schema, stack: ExitStack) -> None:
        self.schema = schema
        self.writer = stack.enter_context(pq.ParquetWriter(file, schema))
        self._held: list[dict[str, Any]] = []

    def add(self, records: Sequence[dict[str, Any]]) -> None:
        """Write rows."""
        self._held += records
        while len(self._held) >= ROW_GROUP:
            self._flush()

    def finish(self, notes: dict[bytes, bytes]) -> None:
        """Write what is held, and notes for the footer."""
        self._flush()
        self.writer.add_key_value_metadata(notes)

    def _flush(self) -> None:
        held, self._held = self._held[:ROW_GROUP], self._held[ROW_GROUP:]
        if held:
            self.writer.write_table(pa.Table.from_pylist(held, self.schema))


def add_counts(counts: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    """Return the sum of two counts by cause, sorted."""
    total = Counter(counts) + Counter(more)
    return {cause: total[cause] for cause in sorted(total)}


@contextmanager
def create_seekable(url: str, storage: Storage) -> Iterator[BinaryIO]:
    """Open a file for atomic writing that can seek; for a bucket it is on the local disk first."""
    if not storage.far:
        with storage.create(url) as file:
            yield file
        return
    with TemporaryFile() as spool:
        yield cast(BinaryIO, spool)
        spool.seek(0)
        with storage.create(url) as target:
            shutil.copyfileobj(spool, target, _CHUNK)


def read_summary(folder: str, number: int, storage: Storage) -> PartSummary:
    """Read the summary of a part that is written.

    Raises `UserError` where its file is missing or damaged.
    """
    url = part_url(folder, METADATA["images"], number, "parquet")
    try:
        with pa.PythonFile(storage.open(url), "r") as file:
            notes = pq.read_metadata(file).metadata
        return PartSummary(**json.loads(notes[SUMMARY]))
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{url} is missing or damaged ({error}); remove it, and rerun") from None
