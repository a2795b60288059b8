"""Embedding of a shard set by all ranks of a job, each whole shards, until all parts are there."""

import time
from collections.abc import Callable, Iterator

from xmodal.activity import activity
from xmodal.distributed.collectives import gather_objects
from xmodal.distributed.environment import Environment
from xmodal.errors import UnfinishedError
from xmodal.search.embeddings import EmbeddingsInfo
from xmodal.search.shard_embedder import INTERRUPTED, ShardEmbedder, check_share, deal

_REACHED, _ENDED, _INTERRUPTED = "embedded", "ended", "interrupted"
_PAUSE = 0.5  # seconds between two looks at the other ranks


def embed_shards(
    embedder: ShardEmbedder, environment: Environment, say: Callable[[str], None]
) -> EmbeddingsInfo | None:
    """Write the parts that are missing, this rank its own; rank 0 returns the description.

    Raises `UnfinishedError` where a rank was interrupted, and `UserError` where too many samples
    are bad.
    """
    folder = embedder.folder
    done = set(gather_objects(sorted(folder.finished()) if environment.is_main else []))
    sizes = {n: one.num_bytes for n, one in enumerate(embedder.shards) if n not in done}
    if environment.is_main:
        for line in _opening_lines(len(done), len(sizes), environment.ranks):
            say(line)
    mine = deal(sizes, environment.ranks)[environment.rank]
    whose = f" of rank {environment.rank}" if environment.ranks > 1 else ""
    begun = time.perf_counter()
    try:
        for line in _embed(embedder, mine, whose):
            say(line)
    except UnfinishedError:
        _note(environment, _INTERRUPTED)
        raise
    _note(environment, _ENDED)
    _wait(embedder, environment)
    seconds = time.perf_counter() - begun
    return _finish(embedder, list(sizes), seconds) if environment.is_main else None


def _opening_lines(done: int, left: int, ranks: int) -> Iterator[str]:
    if done and left:
        yield f"Resuming: {done:,} of {done + left:,} shards are embedded"
    if 0 < left < ranks:
        yield f"warning: idle ranks: {ranks - left} of {ranks}; each shard is embedded by one rank"


def _embed(embedder: ShardEmbedder, mine: list[int], whose: str) -> Iterator[str]:
    """Embed shards, and yield a line about each."""
    begun = time.perf_counter()
    for number, (shard, part) in enumerate(embedder.embed(mine), 1):
        seconds, begun = time.perf_counter() - begun, time.perf_counter()
        bad = sum(part.faults.values())
        yield (
            f"Embedded {shard.name} ({number:,} of {len(mine):,}{whose}): {part.samples:,} samples"
            f"{f', {bad:,} bad' if bad else ''}, {shard.num_samples / seconds:,.0f} samples/s"
        )


def _note(environment: Environment, value: str) -> None:
    if environment.rendezvous:
        environment.rendezvous.note(_REACHED, value)


def _wait(embedder: ShardEmbedder, environment: Environment) -> None:
    """Wait for all ranks to end; the pulse ends this one where another is lost.

    It is no collective: ranks may end more than half an hour apart.
    """
    meeting = environment.rendezvous
    if meeting is None:
        return
    with activity("waiting for the other ranks"):
        while not meeting.all_reached(_REACHED):
            if embedder.interrupted():
                raise UnfinishedError(INTERRUPTED)
            time.sleep(_PAUSE)
    if _INTERRUPTED in (meeting.value(_REACHED, rank) for rank in range(environment.ranks)):
        raise UnfinishedError(INTERRUPTED)


def _finish(embedder: ShardEmbedder, new: list[int], seconds: float) -> EmbeddingsInfo:
    """Write what is known now that all parts are there, `new` of them in so many seconds."""
    folder, shards = embedder.folder, embedder.shards
    with activity("reading the summaries of all parts"):
        digests = embedder.dataset.reader.manifest.index_digests
        total = folder.summarise(embedder.info.model.digest, digests)
    read = sum(shard.num_samples for shard in shards)
    check_share(sum(total.faults.values()), read, embedder.faults.max_bad_share, "")
    embedded = sum(shards[number].num_samples for number in new)
    return folder.finish(total, embedded / seconds if new else None)
