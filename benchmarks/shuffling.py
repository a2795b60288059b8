"""Quality of the order of samples, beside a perfect shuffle and webdataset's.

    .venv/bin/python -m benchmarks.shuffling [--quick] [--json FILE]

Nothing is read: only the order of two epochs is looked at, for several numbers of shards, lanes and
windows. webdataset's is that of open_clip: shards shuffled, then a buffer of 5,000 samples in each
of its readers, of which 8 are eight processes of one worker each. Printed for each order:

    travel         how far a sample moves from one epoch to the next, a share of the epoch: its
                   mean, and what 5 % and 95 % of the samples stay below
    shards         from how many a batch of 256 draws
    neighbours     samples next to each other in a tar: the share that come in one batch, and in
                   batches at most ten apart
    classes        of 100 that stand in the tars one after the other, those in a batch
    chi²           of their numbers in a batch, over the degrees of freedom: 1 is chance, less is
                   more even than chance
"""

import argparse
import json
import random
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import webdataset
from rich.table import Table

from benchmarks.beside import console, row
from xmodal.data.plan import Plan

BATCH, NEAR, CLASSES = 256, 10, 100
# shards, samples of each, and (lanes, window) that are tried on them
STUDIED = {
    (96, 1000): [(256, 64), (256, 256), (256, 16), (64, 64), (64, 256), (16, 64)],
    (16, 10_000): [(256, 64), (256, 256), (64, 256)],
    (1024, 1000): [(256, 64), (256, 256), (64, 256)],
}
READERS = (1, 8)
# open_clip's, of shards and of samples
SHARD_BUFFER, SHARDS_AT_FIRST, BUFFER, AT_FIRST = 2000, 500, 5000, 1000

Epochs = tuple[np.ndarray, np.ndarray]  # the numbers of all samples in the order of two epochs


class Figures(NamedTuple):
    """Figures of an order; the head of this file defines each."""

    travel: float
    travel_least: float
    travel_most: float
    shards: float
    same_batch: float
    near_batches: float
    classes: float
    chi_square: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the smallest data set alone")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    args = parser.parse_args()
    rows = []
    for (shards, each), settings in list(STUDIED.items())[: 1 if args.quick else None]:
        rows += study(shards, each, settings)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


def study(shards: int, each: int, settings: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """Print a table of all orders of a data set, and return rows of ours beside webdataset's."""
    found = {"perfect shuffle": figures(perfect(shards * each), each)}
    for readers in READERS:
        plural = "s" if readers > 1 else ""
        name = f"webdataset, {readers} reader{plural}, {readers * BUFFER:,} held"
        found[name] = figures(webdatasets(shards, each, readers), each)
    peer = found[name]  # the better shuffled
    rows = []
    for lanes, window in settings:
        ours = figures(planned(shards, each, lanes, window), each)
        found[f"lanes {lanes}, window {window}, {lanes * window:,} held"] = ours
        name = f"shuffling/{shards}x{each}/lanes{lanes}/window{window}"
        for figure, mine, theirs in zip(Figures._fields, ours, peer, strict=True):
            one = row(f"{name}/{figure}", mine, theirs, "", "of no hardware")
            rows.append(one | {"perfect": getattr(found["perfect shuffle"], figure)})
    console.print(as_table(f"{shards:,} shards of {each:,} samples", found))
    return rows


def perfect(count: int) -> Epochs:
    draws = np.random.default_rng(0)
    return draws.permutation(count), draws.permutation(count)


def planned(shards: int, each: int, lanes: int, window: int) -> Epochs:
    plan = Plan([each] * shards, seed=0, lanes=lanes, window=window)
    return order(plan, 0), order(plan, 1)


def order(plan: Plan, epoch: int) -> np.ndarray:
    """Return the numbers of an epoch's samples in their order, a block of a lane at a time."""
    found = np.empty(plan.num_samples, dtype=np.int64)
    for lane in range(plan.lanes):
        place = lane
        while place < plan.num_samples:
            block, _ = plan.block_at(epoch * plan.num_samples + place)
            after = place + (block.stop - block.start) * plan.lanes
            found[place : after : plan.lanes] = plan.samples_of(block)
            place = after
    return found


def webdatasets(shards: int, each: int, readers: int) -> Epochs:
    return buffered(shards, each, readers, 0), buffered(shards, each, readers, 1)


def buffered(shards: int, each: int, readers: int, epoch: int) -> np.ndarray:
    """Return an epoch in which every reader has its part of the shards and of each batch."""
    shuffled = list(shuffle(range(shards), SHARD_BUFFER, SHARDS_AT_FIRST, epoch))
    streams = []
    for reader in range(readers):
        samples = (range(shard * each, (shard + 1) * each) for shard in shuffled[reader::readers])
        seed = epoch * readers + reader
        streams.append(list(shuffle(chain.from_iterable(samples), BUFFER, AT_FIRST, seed)))
    return np.array(streams).T.reshape(-1)


def shuffle(items: Iterable[int], size: int, at_first: int, seed: int) -> Iterator[int]:
    stage = webdataset.shuffle(size, initial=at_first, rng=random.Random(seed))
    found: Iterator[int] = stage(iter(items))
    return found


def figures(epochs: Epochs, each: int) -> Figures:
    """Measure an order of samples that stand `each` to a shard."""
    count = len(epochs[0])
    places = [np.argsort(one, kind="stable") for one in epochs]
    travel = np.abs(places[0] - places[1]) / count
    batch_of = places[0] // BATCH
    inside = np.arange(count - 1) % each != each - 1  # the next one is in the same shard
    apart = np.abs(np.diff(batch_of))[inside]
    batches = epochs[0][: count // BATCH * BATCH].reshape(-1, BATCH)
    numbers = counts(batches * CLASSES // count, CLASSES)
    expected = BATCH / CLASSES
    spread = ((numbers - expected) ** 2 / expected).sum(1) / (CLASSES - 1)
    return Figures(
        float(travel.mean()),
        float(np.quantile(travel, 0.05)),
        float(np.quantile(travel, 0.95)),
        float((counts(batches // each, count // each) > 0).sum(1).mean()),
        float((apart == 0).mean()),
        float((apart <= NEAR).mean()),
        float((numbers > 0).sum(1).mean()),
        float(spread.mean()),
    )


def counts(kinds: np.ndarray, number: int) -> np.ndarray:
    """Return how often each of so many kinds is in each row, (rows, number)."""
    rows = np.arange(len(kinds))[:, None] * number
    return np.bincount((kinds + rows).ravel(), minlength=len(kinds) * number).reshape(-1, number)


def as_table(title: str, found: dict[str, Figures]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("order")
    heads = ("travel", "5 to 95 %", "shards", "one batch", "ten apart", "classes", "chi²")
    for head in heads:
        table.add_column(head, justify="right")
    for name, one in found.items():
        table.add_row(
            name,
            f"{one.travel:.3f}",
            f"{one.travel_least:.3f} to {one.travel_most:.2f}",
            f"{one.shards:.1f}",
            f"{one.same_batch:.2%}",
            f"{one.near_batches:.1%}",
            f"{one.classes:.1f}",
            f"{one.chi_square:.2f}",
        )
    return table


if __name__ == "__main__":
    main()
