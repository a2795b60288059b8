"""Make the index of shards that other tools wrote."""

import sys
from collections.abc import Iterator, Mapping

from shards.parallel import progress, run_parallel
from shards.place import find_tars, name_of, storage_of
from xmodal.data.manifest import write_manifest
from xmodal.data.shard_index import Indexed, write_index
from xmodal.errors import UserError, printable

_NUM_EXAMPLES = 5


def index(folder: str, workers: int) -> None:
    """Write the `.idx` of every tar in the folder and their `shardindex.json`.

    What is whole before the first break in a tar is indexed; what is not, and keys that come
    twice in a shard, are counted and named. Raises `UserError` when no tar has a whole sample.
    """
    tars = find_tars(folder)
    found = {}
    with progress("index", len(tars)) as advance:
        for tar, indexed in run_parallel(_index_tar, tars, min(workers, len(tars))):
            found[tar] = indexed
            advance(1)
    ordered = {name_of(tar): found[tar] for tar in tars}
    counts = {name: each.num_samples for name, each in ordered.items() if each.num_samples}
    for line in doubts(ordered):
        print(f"warning: {printable(line)}", file=sys.stderr)
    if not counts:
        raise UserError(f"no shard of {folder} has a whole sample")
    write_manifest(folder, counts, storage_of(folder))
    print(f"{sum(counts.values()):,} samples in {len(counts):,} shards of {folder}")


def doubts(found: Mapping[str, Indexed]) -> Iterator[str]:
    """Say what of the shards is not indexed or doubtful: each kind counted, the first named."""
    broken = [
        f"{each.broken}: {each.num_samples:,} samples before it are indexed"
        for each in found.values()
        if each.broken
    ]
    empty = [name for name, each in found.items() if not (each.num_samples or each.broken)]
    keys = [f"{name} {key}" for name, each in found.items() for key in each.repeated]
    yield from broken[:_NUM_EXAMPLES]
    if len(broken) > _NUM_EXAMPLES:
        yield f"{len(broken):,} shards are cut or broken in all"
    if empty:
        yield f"{len(empty):,} shards without a sample are left out: {_named(empty)}"
    if keys:
        yield f"{len(keys):,} keys come twice, the later samples count as bad: {_named(keys)}"


def _index_tar(tar: str) -> Indexed:
    return write_index(tar, storage_of(tar))


def _named(names: list[str]) -> str:
    return ", ".join(names[:_NUM_EXAMPLES]) + (", …" if len(names) > _NUM_EXAMPLES else "")
