"""Near duplicates within a set, in groups, of each of which one image is kept."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from xmodal.search.curation.alike import Alike, Pairs, Rule, find_alike
from xmodal.search.curation.outcome import SHOWN, Figure, Outcome, Section, places
from xmodal.search.searcher import Searcher

LARGEST_SHOWN = 12  # images of a group


def duplicates(searcher: Searcher, rule: Rule, work: Path) -> Outcome:
    """Find groups of near duplicates: images that pairs connect, directly or through others.

    Of each group the image with the most pixels is kept, of equal ones that of the most bytes, then
    the first. Tables: `pairs`, and `groups` with a row for each image of a group.
    """
    alike = find_alike(searcher, None, rule, work)
    groups = group_pairs(alike.pairs, len(searcher.sides["images"]))
    best = [_best(searcher, group) for group in groups]
    kept = np.ones(len(searcher.sides["images"]), bool)
    for group, one in zip(groups, best, strict=True):
        kept[group] = group == one
    return Outcome(
        numbers={
            "images": f"{len(kept):,}",
            **numbers_of(alike),
            "groups": f"{len(groups):,}",
            "kept": f"{kept.sum():,}",
            "removed": f"{(~kept).sum():,}",
        },
        kept=kept,
        tables={
            "pairs": pair_table(alike.pairs, searcher, searcher),
            "groups": _group_table(searcher, groups, kept),
        },
        sections=[
            _section(searcher, number, group, kept, alike.pairs)
            for number, group in enumerate(groups[:SHOWN])
        ],
        shown=f"{min(SHOWN, len(groups)):,} of {len(groups):,} groups",
    )


def group_pairs(pairs: Pairs, rows: int) -> list[np.ndarray]:
    """Return the rows of each group, ascending; groups in the order of their first rows."""
    shape = (np.ones(len(pairs), bool), (pairs.first, pairs.second))
    members = np.union1d(pairs.first, pairs.second)
    labels = connected_components(coo_matrix(shape, (rows, rows)), directed=False)[1][members]
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order])) + 1
    groups = np.split(members[order], starts) if len(members) else []
    return sorted(groups, key=lambda group: int(group[0]))


def numbers_of(alike: Alike) -> dict[str, str]:
    """Return what a rule has compared and found, by its name."""
    compared = {"candidates": f"{alike.candidates:,}", "pairs": f"{len(alike.pairs):,}"}
    if alike.unreadable:
        compared["images that could not be read"] = f"{alike.unreadable:,}"
    return {"least similarity": f"{alike.lowest_similarity:.4f}", **compared}


def pair_table(
    pairs: Pairs, first: Searcher, second: Searcher, names: tuple[str, str] = ("", "other_")
) -> pa.Table:
    """Return a row for each pair: the places of both images and how alike they are."""
    return pa.table(
        {
            **places(first, pairs.first, names[0]),
            **places(second, pairs.second, names[1]),
            "similarity": pairs.similarity.astype(np.float32),
            "correlation": pairs.correlation.astype(np.float32),
            "mirrored": pairs.mirrored,
        }
    )


def likeness(pairs: Pairs) -> str:
    """Say how alike the least alike of some pairs are."""
    said = f"similarity {pairs.similarity.min():.3f}"
    if not np.isnan(pairs.correlation).any():
        said += f", correlation {pairs.correlation.min():.3f}"
    return said + (", mirrored" if pairs.mirrored.any() else "")


def _best(searcher: Searcher, group: np.ndarray) -> int:
    records = [searcher.record(int(row)) for row in group]
    sizes = [((r["width"] or 0) * (r["height"] or 0), r["size"] or 0) for r in records]
    return int(group[max(range(len(group)), key=lambda place: (sizes[place], -place))])


def _group_table(searcher: Searcher, groups: list[np.ndarray], kept: np.ndarray) -> pa.Table:
    rows = np.concatenate([np.empty(0, np.int64), *groups])
    numbers = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    ids = searcher.sides["images"].metadata["image_id"].take(pa.array(rows))
    columns = {**places(searcher, rows), "image_id": ids, "kept": kept[rows]}
    return pa.table({"group": numbers, **columns})


def _section(
    searcher: Searcher, number: int, group: np.ndarray, kept: np.ndarray, pairs: Pairs
) -> Section:
    inside = pairs.where(np.isin(pairs.first, group))
    rows = sorted(map(int, group), key=lambda row: not kept[row])[:LARGEST_SHOWN]
    figures = [Figure(searcher, row, "kept" if kept[row] else "removed") for row in rows]
    return Section(f"Group {number}: {len(group)} images, least {likeness(inside)}", figures)
