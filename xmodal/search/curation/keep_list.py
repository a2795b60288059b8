"""Conversion of keep-lists: DataComp's npy of uids to parquet, and back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xmodal.errors import UserError
from xmodal.search.curation.outcome import Outcome
from xmodal.search.keep_lists import read_keep_list, read_uids, uids_of, write_uids
from xmodal.search.searcher import Searcher

UIDS_NAME = "keep.npy"


def keep_list(searcher: Searcher, source: Path, folder: Path) -> Outcome:
    """Convert a keep-list by the uids of a set's samples: .npy to parquet, .parquet to npy.

    Raises `UserError` where nothing of it is in the set, or a sample has no uid.
    """
    samples = searcher.sides["images"].metadata
    if source.suffix == ".npy":
        return _from_uids(_read(read_uids, source), samples, source)
    if source.suffix == ".parquet":
        return _to_uids(_read(read_keep_list, source), samples, source, folder)
    raise UserError(f"--from {source}: name a file .npy (DataComp's uids) or .parquet")


def _read(read: Callable[[Path], Any], source: Path) -> Any:
    try:
        return read(source)
    except UserError as error:
        raise UserError(f"--from {error}") from None


def _from_uids(wanted: np.ndarray, samples: pa.Table, source: Path) -> Outcome:
    uids = uids_of(samples["uid"])
    kept = np.isin(uids, wanted)
    found = len(np.unique(uids[kept]))
    unknown = len(np.unique(wanted)) - found
    return _outcome(len(samples), kept, unknown, source)


def _to_uids(wanted: pa.Table, samples: pa.Table, source: Path, folder: Path) -> Outcome:
    known, listed = (_joined(table) for table in (samples, wanted))
    kept = pc.is_in(known, value_set=listed).to_numpy()
    unknown = len(pc.unique(listed)) - int(kept.sum())
    outcome = _outcome(len(samples), kept, unknown, source)
    chosen = samples["uid"].take(pa.array(np.flatnonzero(kept)))
    write_uids(folder / UIDS_NAME, uids_of(chosen))
    return outcome


def _joined(table: pa.Table) -> pa.ChunkedArray:
    """Return one text for each sample, of its shard and key; no name has a 0 in it."""
    return pc.binary_join_element_wise(table["shard"], table["key"], "\0")


def _outcome(total: int, kept: np.ndarray, unknown: int, source: Path) -> Outcome:
    if not kept.any():
        raise UserError(f"no sample of {source} is in the set: name the embeddings of its data")
    return Outcome(
        numbers={
            "samples": f"{total:,}",
            "kept": f"{kept.sum():,}",
            "listed but not in the set": f"{unknown:,}",
        },
        kept=kept,
    )
