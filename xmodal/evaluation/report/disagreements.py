"""Queries on which two evaluations differ most, with their pictures and texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from xmodal.data.reader import SampleReader
from xmodal.evaluation.metrics.similarity import BY_DISTANCE
from xmodal.evaluation.per_query import NOWHERE, PerQuery
from xmodal.evaluation.report.comparison import Compared, obstacle
from xmodal.evaluation.report.examples import picture_of, text_of
from xmodal.evaluation.report.run_report import Picture
from xmodal.evaluation.retrieved import Part

SHOWN = 6  # queries of each sort


@dataclass(frozen=True)
class Disagreement:
    """A query, and its result by the first evaluation and by another: a rank, right or wrong."""

    part: Part
    results: tuple[str, str]
    picture: Picture | None = None
    text: str = ""


@dataclass(frozen=True)
class Disagreements:
    """Queries that another evaluation answers better than the first, or worse."""

    first: str
    other: str
    name: str  # of the direction or protocol
    verdict: str  # better or worse
    queries: Sequence[Disagreement]


def disagreements(runs: Sequence[Compared]) -> list[Disagreements]:
    """Return for each evaluation but the first the queries that it answers better, and worse.

    Of each role of a query (image, caption, composed query) those of the first protocol that all
    have results of.
    """
    first, *others = runs
    found = []
    for other in others:
        if obstacle(first, other) or not first.per_query or not other.per_query:
            continue
        for name in _names(first.per_query, other.per_query):
            found += _of(first, other, first.per_query[name], other.per_query[name])
    return found


def with_pictures(found: Sequence[Disagreements], reader: SampleReader) -> list[Disagreements]:
    """Return disagreements with the pictures and texts of their queries."""
    return [replace(one, queries=[_shown(query, reader) for query in one.queries]) for one in found]


def _names(first: Mapping[str, PerQuery], other: Mapping[str, PerQuery]) -> list[str]:
    names: dict[str, str] = {}
    for name, one in first.items():
        theirs = other.get(name)
        if theirs and BY_DISTANCE not in name and one.numbers.equal(theirs.numbers):
            names.setdefault(one.role, name)
    return list(names.values())


def _of(first: Compared, other: Compared, ours: PerQuery, theirs: PerQuery) -> list[Disagreements]:
    gains = _worth(theirs) - _worth(ours)
    order = np.argsort(-gains, kind="stable")
    rows = {
        "better": [row for row in order[:SHOWN] if gains[row] > 0],
        "worse": [row for row in order[::-1][:SHOWN] if gains[row] < 0],
    }
    return [
        Disagreements(first.name, other.name, ours.name, verdict, queries)
        for verdict, own in rows.items()
        if (queries := [_disagreement(ours, theirs, row) for row in own])
    ]


def _worth(one: PerQuery) -> np.ndarray:
    """Return how well each query was answered: ranks count by their ratio."""
    if one.ranks:
        ranks = next(iter(one.ranks.values())).double().numpy()
        worth: np.ndarray = -np.log2(1 + ranks)
        return worth
    values: np.ndarray = np.sum([value.numpy() for value in one.values.values()], axis=0)
    return values


def _disagreement(ours: PerQuery, theirs: PerQuery, row: int) -> Disagreement:
    part = Part(int(ours.numbers[row]), ours.role, int(ours.captions[row]))
    return Disagreement(part, (_result(ours, row), _result(theirs, row)))


def _result(one: PerQuery, row: int) -> str:
    if one.ranks:
        rank = int(next(iter(one.ranks.values()))[row])
        return "not found" if rank == NOWHERE else f"rank {rank + 1:,}"
    right = [name for name, values in one.values.items() if values[row] > 0]
    if len(one.values) == 1:
        return "right" if right else "wrong"
    return f"right: {', '.join(right)}" if right else "wrong"


def _shown(query: Disagreement, reader: SampleReader) -> Disagreement:
    sample = reader[query.part.number]
    text = text_of(sample, query.part)
    return replace(query, picture=picture_of(sample, query.part), text=text)
