"""Reading of a keep-list: a parquet file with one row a sample.

Columns: `shard`, the name of its tar, `key`, and optionally `weight`, its expected number of
occurrences in an epoch. Rows stay in arrays of Arrow and NumPy, for there may be a hundred million.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xmodal.data.storage import Storage
from xmodal.errors import UserError, printable

MAX_WEIGHT = 1_000  # which a weight reaches only where it is something else, such as a score
COLUMNS = "write columns shard (name of the tar), key and, if wanted, weight"
_BATCH = 1 << 20  # rows that are read at a time


@dataclass(frozen=True)
class Rows:
    """Rows of a keep-list that are of known shards.

    `shards` are the numbers of their shards, (rows,) int32, `keys` (rows,) large_binary, `weights`
    (rows,) float32 or None. The file has `total` rows; `strangers` are the names of other shards.
    """

    shards: np.ndarray
    keys: pa.Array
    weights: np.ndarray | None
    total: int
    strangers: frozenset[str]


def read_rows(url: str, storage: Storage, shards: Sequence[str]) -> Rows:
    """Read the rows of a keep-list for shards of these names.

    Raises `UserError` where the file is missing or is no keep-list.
    """
    known = pa.array([encoded(name) for name in shards], pa.large_binary())
    numbers, keys, weights = list[np.ndarray](), list[pa.Array](), list[np.ndarray]()
    total, strangers = 0, set[str]()
    for batch in _batches(url, storage):
        names = _texts(batch, "shard", total, url)
        number = pc.index_in(names, value_set=known)
        there = pc.is_valid(number)
        strangers.update(map(shown, pc.unique(names.filter(pc.invert(there))).to_pylist()))
        numbers.append(number.drop_null().to_numpy())
        keys.append(_texts(batch, "key", total, url).filter(there))
        if "weight" in batch.schema.names:
            weights.append(_weights(batch, total, url)[there.to_numpy(zero_copy_only=False)])
        total += len(batch)
    return Rows(
        np.concatenate([np.empty(0, np.int32), *numbers]),
        pa.concat_arrays([pa.array([], pa.large_binary()), *keys]),
        np.concatenate(weights) if weights else None,
        total,
        frozenset(strangers),
    )


def encoded(name: str) -> bytes:
    """Return the bytes of a name of a file."""
    return name.encode("utf-8", "surrogateescape")


def shown(name: bytes) -> str:
    """Return a name of a file as it is printed."""
    return printable(name.decode("utf-8", "surrogateescape"))


def _batches(url: str, storage: Storage) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a parquet file with the columns of a keep-list."""
    try:
        file = pq.ParquetFile(pa.BufferReader(storage.read(url)))
        yield from file.iter_batches(_BATCH, columns=_check_columns(file.schema_arrow, url))
    except FileNotFoundError:
        raise UserError(f"keep-list {url} is missing: restore it, or name another") from None
    except (pa.ArrowException, OSError):
        raise UserError(f"keep-list {url} is no parquet file, or is damaged: {COLUMNS}") from None


def _check_columns(schema: pa.Schema, url: str) -> list[str]:
    """Return the columns to read; raises `UserError` where one is missing or of another type."""
    for name in ("shard", "key"):
        if schema.names.count(name) != 1:
            held = printable(", ".join(schema.names[:8]))
            raise UserError(f"keep-list {url} has no column {name}, but {held}: {COLUMNS}")
        kind = schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise UserError(f"keep-list {url}: column {name} is of type {kind}; write strings")
    if schema.names.count("weight") != 1:
        return ["shard", "key"]
    kind = schema.field("weight").type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        raise UserError(f"keep-list {url}: column weight is of type {kind}; write numbers")
    return ["shard", "key", "weight"]


def _texts(batch: pa.RecordBatch, name: str, first: int, url: str) -> pa.Array:
    """Return a column of strings as bytes; raises `UserError` where one is missing."""
    column = batch.column(name)
    if column.null_count:
        row = first + pc.index(column.is_null(), True).as_py()
        raise UserError(f"keep-list {url}: row {row:,} has no {name}")
    return column.cast(pa.large_string()).cast(pa.large_binary())


def _weights(batch: pa.RecordBatch, first: int, url: str) -> np.ndarray:
    """Return the weights of rows, (rows,); raises `UserError` for one that cannot be used."""
    weights = batch.column("weight").cast(pa.float64()).fill_null(np.nan).to_numpy()
    weights = weights.astype(np.float32)
    wrong = np.flatnonzero(~((weights > 0) & (weights <= MAX_WEIGHT)))
    if len(wrong):
        row = int(wrong[0])
        said = batch.column("weight")[row].as_py()
        raise UserError(
            f"keep-list {url}: weight {said} of row {first + row:,} is none; a weight is the "
            f"expected number of occurrences in an epoch, above 0 and at most {MAX_WEIGHT:,}"
        )
    return weights
