"""Indexing of shards that other tools wrote."""

import sys
from collections.abc import Iterator, Mapping
from functools import partial

from shards.parallel import progress, run_parallel
from shards.place import find_tars, name_of, storage_of
from xmodal.data.manifest import write_manifest
from xmodal.data.shard_index import Indexed, write_index
from xmodal.data.tar import Tally
from xmodal.errors import UserError, printable

_NUM_EXAMPLES = 5


def index(folder: str, workers: int, *, digest: bool = False) -> None:
    """Write the `.idx` of every tar in the folder and their `shardindex.json`.

    Complete samples before the first break in a tar are indexed; broken and doubtful ones are
    counted and named. With `digest`, record the SHA-256 of each tar too. Raises `UserError` if no
    tar has a complete sample.
    """
    tars = find_tars(folder)
    found = {}
    work = partial(_index_tar, digest)
    with progress("index", len(tars)) as advance:
        for tar, indexed in run_parallel(work, tars, min(workers, len(tars))):
            found[tar] = indexed
            advance(1)
    ordered = {name_of(tar): found[tar] for tar in tars}
    kept = {name: each for name, each in ordered.items() if each.num_samples}
    for line in doubts(ordered):
        print(f"warning: {printable(line)}", file=sys.stderr)
    if not kept:
        raise UserError(f"no shard of {folder} has a whole sample")
    counts = {name: each.num_samples for name, each in kept.items()}
    digests = {name: each.digests for name, each in kept.items()}
    write_manifest(folder, counts, storage_of(folder), digests)
    print(f"{sum(counts.values()):,} samples in {len(counts):,} shards of {folder}")


def doubts(found: Mapping[str, Indexed]) -> Iterator[str]:
    """Yield lines about files that are not indexed or doubtful, counted by kind."""
    broken = [_fault(each) for each in found.values() if each.fault]
    empty = [name for name, each in found.items() if not (each.num_samples or each.fault)]
    yield from broken[:_NUM_EXAMPLES]
    if len(broken) > _NUM_EXAMPLES:
        yield f"{len(broken):,} shards in all are truncated, broken or unreadable"
    if empty:
        more = ", …" if len(empty) > _NUM_EXAMPLES else ""
        named = ", ".join(empty[:_NUM_EXAMPLES]) + more
        yield f"{len(empty):,} shards without a sample are skipped: {named}"
    total = Tally()
    for name, each in found.items():
        total.merge(each.doubts, name)
    yield from total.lines()


def _fault(indexed: Indexed) -> str:
    kept = f"{indexed.num_samples:,} samples before it are indexed"
    return f"{indexed.fault}: {kept if indexed.num_samples else 'it is not indexed'}"


def _index_tar(digest: bool, tar: str) -> Indexed:
    return write_index(tar, storage_of(tar), content=digest)
