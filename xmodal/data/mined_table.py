"""Mined items of a data set: for each sample, others that a model takes for relevant to it.

Read from the table of `xmodal curate mine`: parquet with columns `shard` and `key`, and the lists
`texts` and `images` of places (shard, key) of the samples whose captions or images are meant.
"""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xmodal.data.extra_items import NONE, MinedItems
from xmodal.data.manifest import Manifest
from xmodal.data.shard_index import read_keys
from xmodal.data.storage import open_storage
from xmodal.data.storage.config import StorageConfig
from xmodal.errors import UserError

SIDES = ("texts", "images")
_SLASH = pa.scalar(b"/", pa.large_binary())
_WRITE = "name a table of `xmodal curate mine`"


def read_mined(
    url: str, manifest: Manifest, texts: int, images: int, access: Iterable[StorageConfig] = ()
) -> MinedItems:
    """Return the hardest `texts` and `images` of each sample of a data set.

    Items of other data sets are skipped. Raises `UserError` where the file is no such table, names
    no sample of the data set, or has no items of a side that is asked for.
    """
    table = _read(url, access)
    known = _places_of(manifest)
    rows = pc.index_in(_places(table["shard"], table["key"]), value_set=known)
    there = rows.is_valid().to_numpy(zero_copy_only=False)
    if not there.any():
        raise UserError(
            f"{url} names no sample of {manifest.url}: mine its embeddings, or {_WRITE}"
        )
    numbers = rows.fill_null(0).to_numpy()[there]
    found = {}
    for side, count in zip(SIDES, (texts, images), strict=True):
        found[side] = np.full((manifest.num_samples, count), NONE)
        found[side][numbers] = _items(table[side], known, count)[there]
        if count and (found[side] == NONE).all():
            raise UserError(
                f"{url} has no {side} for any sample of {manifest.url}: mine them with a "
                f"smaller --margin, or remove data.negatives.mined_{side}"
            )
    return MinedItems(**found)


def _read(url: str, access: Iterable[StorageConfig]) -> pa.Table:
    try:
        data = pa.BufferReader(open_storage(url, access).read(url))
        return pq.read_table(data, columns=["shard", "key", *SIDES]).combine_chunks()
    except FileNotFoundError:
        raise UserError(f"data.train.mined: {url} is missing; {_WRITE}") from None
    except (pa.ArrowException, OSError, KeyError, ValueError):
        raise UserError(f"data.train.mined: {url} is no such table; {_WRITE}") from None


def _places_of(manifest: Manifest) -> pa.Array:
    """Return the places of all samples of a data set, in its order."""
    found = [pa.array([], pa.large_binary())]
    for shard in manifest.shards:
        keys = pa.array(read_keys(shard.url, manifest.storage), pa.large_binary())
        keys = keys.take(pa.array(shard.kept.numbers)) if shard.kept else keys
        found.append(
            pc.binary_join_element_wise(
                pa.scalar(shard.name.encode(), pa.large_binary()), keys, _SLASH
            )
        )
    return pa.concat_arrays(found)


def _places(shards: pa.ChunkedArray | pa.Array, keys: pa.ChunkedArray | pa.Array) -> pa.Array:
    parts = [_binary(one) for one in (shards, keys)]
    return pc.binary_join_element_wise(*parts, _SLASH)


def _binary(texts: pa.ChunkedArray | pa.Array) -> pa.Array:
    flat = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    return flat.cast(pa.large_string()).cast(pa.large_binary())


def _items(column: pa.ChunkedArray, known: pa.Array, count: int) -> np.ndarray:
    """Return the numbers of the first known items of each row of a list, (rows, count)."""
    lists = column.combine_chunks()
    found = np.full((len(lists), count), NONE)
    items = lists.flatten()
    places = _places(items.field("shard"), items.field("key"))
    numbers = pc.index_in(places, value_set=known)
    kept = numbers.is_valid().to_numpy(zero_copy_only=False)
    rows = pc.list_parent_indices(lists).to_numpy()[kept]
    first = np.searchsorted(rows, rows)  # rows rise: where each one's items begin
    rank = np.arange(len(rows)) - first
    chosen = rank < count
    found[rows[chosen], rank[chosen]] = numbers.drop_null().to_numpy()[chosen]
    return found
