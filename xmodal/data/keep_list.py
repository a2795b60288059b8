"""View of a manifest that has the samples of a keep-list alone.

The kept samples are in the manifest's order, and shards of which none is kept are not there: what
reads the view sees what it would see of shards built of those samples.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xmodal.data.keep_list_file import Rows, read_rows, shown
from xmodal.data.kept import Kept
from xmodal.data.manifest import Manifest, Shard
from xmodal.data.shard_index import read_keys
from xmodal.data.storage import open_storage
from xmodal.data.storage.config import StorageConfig
from xmodal.errors import UserError, printable

_NUM_EXAMPLES = 3


@dataclass(frozen=True)
class _Found:
    """Kept samples of a shard, and how many keys of a keep-list it does not have, with examples."""

    shard: Shard
    kept: Kept
    num_unknown: int
    unknown: list[str]


def keep_only(manifest: Manifest, url: str, access: Iterable[StorageConfig] = ()) -> Manifest:
    """Return the view of a manifest that has the samples of a keep-list alone.

    Samples that the manifest does not have are counted in its warnings. Raises `UserError` where
    the file is no keep-list, names a sample twice, or names none of the manifest.
    """
    rows = read_rows(url, open_storage(url, access), [one.name for one in manifest.shards])
    order = np.argsort(rows.shards, kind="stable")
    numbers, begins = np.unique(rows.shards[order], return_index=True)
    _check_names(manifest, numbers, url)

    def find(number: int, of_shard: np.ndarray) -> _Found:
        return _find(manifest, manifest.shards[number], rows, of_shard, url)

    with ThreadPoolExecutor(16) as pool:
        parts = np.split(order, begins)[1:]
        found = list(pool.map(find, numbers.tolist(), parts))
    shards = tuple(
        replace(one.shard, num_samples=len(one.kept.numbers), kept=one.kept)
        for one in found
        if len(one.kept.numbers)
    )
    unknown = _unknown_line(rows, found, manifest, url)
    if not shards:
        raise UserError(unknown or f"keep-list {url} keeps no sample: it has no rows")
    return replace(manifest, shards=shards, unknown=unknown)


def _check_names(manifest: Manifest, numbers: np.ndarray, url: str) -> None:
    """Raise `UserError` where a named shard is not the only one of its name."""
    counts = Counter(one.name for one in manifest.shards)
    for name in (manifest.shards[number].name for number in numbers.tolist()):
        if counts[name] > 1:
            raise UserError(
                f"keep-list {url} names {printable(name)}, and {manifest.url} has several shards "
                "of that name: list their folders as data sets of their own in data.train"
            )


def _find(manifest: Manifest, shard: Shard, rows: Rows, of_shard: np.ndarray, url: str) -> _Found:
    """Find the samples of a shard that some rows name."""
    known = pa.array(read_keys(shard.url, manifest.storage), pa.large_binary())
    manifest.check_count(shard, len(known))
    keys = rows.keys.take(of_shard)
    found = pc.index_in(keys, value_set=known)
    unknown = [shown(key) for key in keys.filter(found.is_null())[:_NUM_EXAMPLES].to_pylist()]
    of_shard = of_shard[found.is_valid().to_numpy(zero_copy_only=False)]
    numbers = found.drop_null().to_numpy()
    order = np.argsort(numbers, kind="stable")
    numbers, of_shard = numbers[order], of_shard[order]
    _check_once(numbers, known, f"keep-list {url} names {shard.name}", shard.url)
    weights = None if rows.weights is None else rows.weights[of_shard]
    return _Found(shard, Kept(len(known), numbers, weights), found.null_count, unknown)


def _check_once(numbers: np.ndarray, known: pa.Array, named: str, shard: str) -> None:
    """Raise `UserError` where rows name a sample twice, or a key that its shard has twice."""
    again = numbers[1:][numbers[1:] == numbers[:-1]]
    if len(again):
        key = shown(known[int(again[0])].as_py())
        raise UserError(f"{named}, {key} twice: remove one of the rows")
    there = known.filter(pc.is_in(known, value_set=known.take(numbers)))
    if len(there) > len(numbers):
        ((key, _),) = Counter(there.to_pylist()).most_common(1)
        raise UserError(
            f"{named}, {shown(key)}, a key that {shard} has twice: remove the row, or rename the "
            "files in the tar and index it again"
        )


def _unknown_line(rows: Rows, found: Sequence[_Found], manifest: Manifest, url: str) -> str | None:
    """Return a line about rows of samples that a manifest does not have; None without any."""
    num_keys = sum(one.num_unknown for one in found)
    num_strangers = rows.total - len(rows.shards)
    keys = [f"{one.shard.name}, {key}" for one in found for key in one.unknown]
    parts = [
        f"{count:,} of {what} ({'; '.join(names[:_NUM_EXAMPLES])}{'; …' * (many > _NUM_EXAMPLES)})"
        for count, what, names, many in (
            (num_strangers, "unknown shards", sorted(rows.strangers), len(rows.strangers)),
            (num_keys, "unknown keys", keys, num_keys),
        )
        if count
    ]
    count = num_strangers + num_keys
    if not count:
        return None
    said = "none" if count == rows.total else f"only {rows.total - count:,}"
    return (
        f"keep-list {url}: {said} of its {rows.total:,} samples are in {manifest.url}: "
        + ", ".join(parts)
    )
