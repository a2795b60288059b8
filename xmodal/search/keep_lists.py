"""Keep-lists: the samples of a shard set to train on, and DataComp's form of them.

A keep-list is a parquet file with columns shard (name of the tar), key and, where samples count
differently, weight. DataComp has a sorted array of the samples' uids, two integers of 64 bits each,
which stand for the 32 hexadecimal digits of a uid.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xmodal.errors import UserError

KEEP = "keep.parquet"
UIDS = np.dtype("u8,u8")
_DIGITS = 32
_BLOCK = 1 << 16  # uids that are text at a time


def write_keep_list(path: Path, samples: pa.Table, weights: np.ndarray | None = None) -> None:
    """Write the samples of a table with columns shard and key, and their weights (rows,)."""
    table = samples.select(["shard", "key"])
    if weights is not None:
        table = table.append_column("weight", pa.array(weights, pa.float64()))
    pq.write_table(table, path)


def read_keep_list(path: Path) -> pa.Table:
    """Return the columns shard and key of a keep-list; raises `UserError` for any other file."""
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (OSError, pa.ArrowException):
        raise UserError(f"{path} is no parquet file, or is damaged") from None
    if not {"shard", "key"} <= set(table.schema.names):
        raise UserError(f"{path} is no keep-list: it has no columns shard and key")
    return pa.table({name: table[name].cast(pa.string()) for name in ("shard", "key")})


def read_uids(path: Path) -> np.ndarray:
    """Return DataComp's uids, (n,) of two uint64; raises `UserError` for any other file."""
    try:
        uids = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (OSError, ValueError, EOFError):
        raise UserError(f"{path} is no array of NumPy's, or is damaged") from None
    if uids.dtype != UIDS or uids.ndim != 1:
        raise UserError(f"{path} holds {uids.dtype} of shape {uids.shape}, not uids: (n,) of u8,u8")
    return np.asarray(uids)


def write_uids(path: Path, uids: np.ndarray) -> None:
    """Write uids sorted and each once, as DataComp reads them."""
    with path.open("wb") as file:
        np.save(file, np.unique(uids), allow_pickle=False)


def uids_of(column: pa.ChunkedArray) -> np.ndarray:
    """Return the uids of a column of texts, (rows,) of two uint64.

    Raises `UserError` where a sample has none, or one that is not 32 hexadecimal digits.
    """
    uids = np.empty(len(column), UIDS)
    for start in range(0, len(column), _BLOCK):
        texts = column.slice(start, _BLOCK)
        good = pc.fill_null(pc.match_substring_regex(texts, r"\A[0-9a-fA-F]{32}\z"), False)
        if not pc.all(good, min_count=0).as_py():
            row = start + pc.index(good, False).as_py()
            raise UserError(
                f"the sample of row {row:,} has no uid of {_DIGITS} hexadecimal digits: write them "
                "into the JSON of the samples, and embed again"
            )
        halves = np.frombuffer(bytes.fromhex("".join(texts.to_pylist())), ">u8")
        uids["f0"][start : start + _BLOCK] = halves[0::2]
        uids["f1"][start : start + _BLOCK] = halves[1::2]
    return uids
