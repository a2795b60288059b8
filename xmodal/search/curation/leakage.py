"""Leakage: images of a test set that the train set has too."""

from pathlib import Path

import numpy as np

from xmodal.errors import UserError
from xmodal.search.curation.alike import Pairs, Rule, find_alike
from xmodal.search.curation.duplicates import likeness, numbers_of, pair_table
from xmodal.search.curation.outcome import SHOWN, Figure, Outcome, Section
from xmodal.search.searcher import Searcher


def leakage(train: Searcher, test: Searcher, rule: Rule, work: Path) -> Outcome:
    """Find the images of `train` that are near duplicates of one of `test`; they are removed.

    Table `pairs`: test_shard, test_key, shard, key, and how alike they are.
    """
    if train.info.model.digest != test.info.model.digest:
        raise UserError("both sets must be embedded with one model; embed one of them again")
    alike = find_alike(test, train, rule, work)
    kept = np.ones(len(train.sides["images"]), bool)
    kept[alike.pairs.second] = False
    leaked = np.unique(alike.pairs.first)
    return Outcome(
        numbers={
            "train images": f"{len(kept):,}",
            "test images": f"{len(test.sides['images']):,}",
            **numbers_of(alike),
            "test images that leaked": f"{len(leaked):,}",
            "kept of train": f"{kept.sum():,}",
            "removed": f"{(~kept).sum():,}",
        },
        kept=kept,
        tables={"pairs": pair_table(alike.pairs, test, train, ("test_", ""))},
        sections=[_section(test, train, int(row), alike.pairs) for row in leaked[:SHOWN]],
        shown=f"{min(SHOWN, len(leaked)):,} of {len(leaked):,} test images that leaked",
    )


def _section(test: Searcher, train: Searcher, row: int, pairs: Pairs) -> Section:
    of_test = pairs.where(pairs.first == row)
    found = [
        Figure(train, int(one), f"train: {likeness(of_test.where(of_test.second == one))}")
        for one in of_test.second
    ]
    return Section(f"Test image {test.record(row)['key']}", [Figure(test, row, "test"), *found])
