"""Padding of batches with and without length buckets.

    .venv/bin/python -m benchmarks.padding [DIR] [--context 512] [--json FILE]

DIR is a folder of shards whose texts `python -m shards lengths DIR` has measured; its captions are
counted in tokens of byte pairs that are learned from them. Without DIR, the lengths of 60,000 texts
are drawn, as spread as those of texts of the web (log-normal, median 74, sigma 0.8). Printed for
each lanes and window, of an epoch of global batches of 256, cut to the context:

    texts            share of the tokens in a batch that are of texts, the others being padding
    tokens a batch   that are computed, without buckets and with them
    saved            share of the computed tokens that buckets save
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.table import Table

from benchmarks.beside import console
from xmodal.data.chance import choose_text, fraction
from xmodal.data.length_buckets import LengthBuckets, Lengths
from xmodal.data.manifest import Manifest, read_manifest
from xmodal.data.mixture import Mixture
from xmodal.data.reader import SampleReader
from xmodal.data.samples import ANY
from xmodal.data.text_lengths import TextLengths, check_lengths
from xmodal.data.tokenizers.byte_pair import train_tokenizer

BATCH, SEED = 256, 0
STUDIED = ((256, 64), (256, 256), (64, 64), (64, 256))  # lanes and window
DRAWN, MEDIAN, SIGMA = 60_000, 74, 0.8


class Known:
    """Lengths of all texts of each sample."""

    def __init__(self, lengths: Sequence[Sequence[int]]) -> None:
        self.lengths = lengths

    def drawn(self, number: int, drawn: float) -> int:
        of = self.lengths[number]
        return of[choose_text(drawn, {"": len(of)}, ANY)[1]]


class Texts(NamedTuple):
    """Texts to study: sizes of their shards, lengths known beforehand, and lengths in tokens."""

    sizes: list[int]
    known: Lengths
    tokens: Lengths


class Padding(NamedTuple):
    """Tokens of an epoch's batches: of texts, and all that are computed a batch."""

    texts: float
    computed: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", metavar="DIR", help="shards; default: drawn lengths")
    parser.add_argument("--context", type=int, default=512, help="default: 512")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    args = parser.parse_args()
    texts = read(read_manifest(args.folder), args.context) if args.folder else draw(args.context)
    table = Table(title=f"{sum(texts.sizes):,} samples, context {args.context}")
    for head in (
        "lanes",
        "window",
        "texts",
        "with buckets",
        "tokens a batch",
        "with buckets",
        "saved",
    ):
        table.add_column(head, justify="right")
    rows = []
    for lanes, window in STUDIED:
        plain, bucketed = (padding(texts, lanes, window, buckets=one) for one in (False, True))
        saved = 1 - bucketed.computed / plain.computed
        rows.append({"lanes": lanes, "window": window, "saved": saved} | bucketed._asdict())
        shares = (f"{one.texts:.1%}" for one in (plain, bucketed))
        computed = (f"{one.computed:,.0f}" for one in (plain, bucketed))
        table.add_row(str(lanes), str(window), *shares, *computed, f"{saved:.1%}")
    console.print(table)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


def read(manifest: Manifest, context: int) -> Texts:
    """Count the tokens of all captions of a shard set."""
    check_lengths(manifest)
    reader = SampleReader(manifest)
    captions = [one.captions() for one in reader.load(range(len(reader)), ("json", "txt"))]
    tokenizer = train_tokenizer((text for of in captions for text in of), context)
    tokens = [tokenizer(of)[1].sum(1).tolist() for of in captions]
    sizes = [shard.num_samples for shard in manifest.shards]
    return Texts(sizes, TextLengths(manifest), Known(tokens))


def draw(context: int) -> Texts:
    """Draw lengths as spread as those of texts of the web."""
    draws = np.random.default_rng(SEED).lognormal(np.log(MEDIAN), SIGMA, DRAWN)
    known = Known(draws.round().clip(2, context).astype(int)[:, None].tolist())
    return Texts([DRAWN // 60] * 60, known, known)


def padding(texts: Texts, lanes: int, window: int, *, buckets: bool) -> Padding:
    """Measure the batches of an epoch."""
    mixture = Mixture(
        [texts.sizes],
        [1.0],
        seed=SEED,
        lanes=lanes,
        window=window,
        buckets=LengthBuckets([texts.known], seed=SEED, batch_size=BATCH) if buckets else None,
    )
    found = in_batches(mixture, texts.tokens, max(1, sum(texts.sizes) // BATCH))
    computed = found.max(1) * BATCH
    return Padding(float(found.sum() / computed.sum()), float(computed.mean()))


def in_batches(mixture: Mixture, lengths: Lengths, steps: int) -> np.ndarray:
    """Return the lengths of the texts of the first global batches, (steps, BATCH)."""
    found = np.zeros(steps * BATCH, dtype=np.int64)
    for lane in range(mixture.lanes):
        position = lane
        while position < len(found):
            stretch = mixture.stretch_from(position)
            of = [
                lengths.drawn(sample, fraction(SEED, origin))
                for sample, origin in zip(
                    stretch.samples.tolist(), stretch.origins.tolist(), strict=True
                )
            ]
            after = position + len(of) * mixture.lanes
            places = found[position : after : mixture.lanes]
            places[:] = of[: len(places)]
            position = after
    return found.reshape(steps, BATCH)


if __name__ == "__main__":
    main()
