"""Keep-lists for tests, written by pyarrow, and shard sets rebuilt of what they keep."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.shard_sets import Members, write_shards
from xmodal.data.manifest import Manifest

Named = tuple[str, str]  # of a sample, its shard and key


def write_keep_list(
    path: Path, samples: Iterable[Named], weights: Sequence[float] | None = None
) -> Path:
    """Write a keep-list of samples, in the order that they are given in."""
    shards, keys = zip(*samples, strict=True)
    columns: dict[str, Sequence[object]] = {"shard": shards, "key": keys}
    pq.write_table(pa.table(columns | ({} if weights is None else {"weight": weights})), path)
    return path


def rebuild(
    folder: Path, shards: Sequence[Mapping[str, Members]], samples: Iterable[Named]
) -> Manifest:
    """Write the shards of `write_shards` anew, with those samples alone."""
    kept = set(samples)
    parts = [
        {key: one for key, one in shard.items() if (shard_name(number), key) in kept}
        for number, shard in enumerate(shards)
    ]
    return write_shards(folder, [part for part in parts if part])


def shard_name(number: int) -> str:
    return f"set-{number:06d}.tar"
