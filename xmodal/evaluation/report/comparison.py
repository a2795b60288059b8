"""Comparison of several evaluations: metrics, differences to the first one, and their intervals."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xmodal.evaluation.metrics.bootstrap import interval
from xmodal.evaluation.metrics.recall import CUTOFFS, DIRECTIONS
from xmodal.evaluation.per_query import PerQuery
from xmodal.evaluation.protocols.protocol import Protocol
from xmodal.evaluation.protocols.registry import measured_by

SETTINGS = ("templates", "all_pairs", "shortlist")  # that may change metrics


@dataclass(frozen=True)
class Compared:
    """An evaluation to compare.

    Attributes:
        name: of the run, as it is shown.
        metrics: numbers by name.
        measured: the description of what was measured, as JSON; None of an earlier version.
        per_query: results of each query by name; None where there are none.
        history: the rows of the run's metrics.jsonl.
        recipe: differences of the recipe to the first run's, a line each.
    """

    name: str
    metrics: Mapping[str, float]
    measured: Mapping[str, Any] | None
    per_query: Mapping[str, PerQuery] | None
    history: Sequence[Mapping[str, Any]] = ()
    recipe: Sequence[str] = ()


@dataclass(frozen=True)
class Difference:
    """Value of a metric less that of the first run, and its interval, if known."""

    value: float
    interval: tuple[float, float] | None
    higher_is_better: bool

    @property
    def verdict(self) -> str:
        """`better` or `worse` where the interval lies on one side of zero, else an empty text."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return ""
        return "better" if (self.value > 0) == self.higher_is_better else "worse"


@dataclass(frozen=True)
class Measurement:
    """A metric of a run; None where it was not measured, or not on the data of the first."""

    value: float | None
    difference: Difference | None = None


@dataclass(frozen=True)
class Table:
    """Metrics of a protocol: rows by metric, with a measurement of each run."""

    protocol: str
    rows: Mapping[str, Sequence[Measurement]]
    headline: str
    notes: Sequence[str] = field(default_factory=list)


def tables(runs: Sequence[Compared]) -> list[Table]:
    """Return the table of each protocol that a run was measured by."""
    protocols = {name: one for run in runs for name, one in measured_by(run.metrics).items()}
    return [_table(name, one, runs) for name, one in protocols.items()]


def obstacle(first: Compared, other: Compared) -> str | None:
    """Return why two evaluations have no difference, in words; None where they have."""
    for run in (first, other):
        if run.measured is None:
            return f"{run.name}: an earlier version wrote its results, without what they are of"
    assert first.measured is not None
    assert other.measured is not None
    for part in ("data", "gallery"):
        ours, theirs = (_shards(run.measured, part) for run in (other, first))
        if ours[1:] != theirs[1:]:
            return (
                f"{other.name}: measured on other {part} ({ours[0]}) than {first.name} "
                f"({theirs[0]}): no differences"
            )
    return None


def notes(runs: Sequence[Compared]) -> list[str]:
    """Return a line for all that is other between runs, or cannot be compared."""
    first, *others = runs
    lines = []
    for other in others:
        reason = obstacle(first, other)
        if reason:
            lines.append(reason)
            continue
        assert first.measured is not None
        assert other.measured is not None
        lines += [
            f"{other.name}: other {name} than {first.name}"
            for name in SETTINGS
            if first.measured.get(name) != other.measured.get(name)
        ]
        lines += list(_without_intervals(first, other))
    return list(dict.fromkeys(lines))


def contributions(run: Compared, metric: str) -> list[tuple[PerQuery, np.ndarray]] | None:
    """Return the terms that a metric is the sum of: queries, and values whose mean is the term.

    None where the results of queries do not tell them.
    """
    found = run.per_query or {}
    prefix, _, name = metric.rpartition("/")
    if name in ("rsum", "map") and prefix not in found:
        both = [found.get(f"{prefix}/{direction}") for direction in DIRECTIONS]
        return [(one, _share(one, name)) for one in both if one] if all(both) else None
    one = found.get(prefix)
    if one is None:
        return None
    if name in one.values:
        return [(one, one.values[name].numpy())]
    stem, _, k = name.partition("@")
    return [(one, _recall(one, stem, int(k)))] if stem in one.ranks and k.isdecimal() else None


def _table(name: str, protocol: Protocol, runs: Sequence[Compared]) -> Table:
    first, *others = runs
    lines = [
        f"{run.name} was not measured by {name}"
        for run in runs
        if name not in measured_by(run.metrics)
    ]
    rows = {
        metric: [
            Measurement(first.metrics.get(metric)),
            *(_measurement(first, other, metric, protocol, name) for other in others),
        ]
        for metric in _names(name, protocol, runs)
    }
    return Table(name, rows, f"{name}/{protocol.headline}", lines)


def _names(name: str, protocol: Protocol, runs: Sequence[Compared]) -> list[str]:
    """Return the metrics of a protocol: its own, and those of categories with known queries."""
    known = [f"{name}/{one}" for one in (*protocol.higher_is_better, *protocol.lower_is_better)]
    found = [one for one in known if "precision@recall_" not in one]
    for run in runs:
        for prefix in run.per_query or ():
            if prefix.startswith(f"{name}/"):
                found += [one for one in run.metrics if one.rpartition("/")[0] == prefix]
    shown = (one for one in dict.fromkeys(found) if not one.endswith("_chance"))
    counted = (one for one in shown if "/num_" not in one and "/queries" not in one)
    return [one for one in counted if any(one in run.metrics for run in runs)]


def _measurement(
    first: Compared, other: Compared, metric: str, protocol: Protocol, name: str
) -> Measurement:
    value, before = other.metrics.get(metric), first.metrics.get(metric)
    if value is None or before is None or obstacle(first, other):
        return Measurement(value)
    higher = metric.removeprefix(f"{name}/") not in protocol.lower_is_better
    return Measurement(value, Difference(value - before, _interval(first, other, metric), higher))


def _interval(first: Compared, other: Compared, metric: str) -> tuple[float, float] | None:
    terms = [contributions(run, metric) for run in (first, other)]
    if terms[0] is None or terms[1] is None:
        return None
    differences = []
    for (ours, before), (theirs, after) in zip(terms[0], terms[1], strict=True):
        if not _same_queries(ours, theirs):
            return None
        differences.append(after - before)
    return interval(differences)


def _without_intervals(first: Compared, other: Compared) -> Iterator[str]:
    """Yield why two evaluations of the same data have no intervals."""
    for run in (first, other):
        if run.per_query is None:
            yield (
                f"{run.name}: no results of its queries, so that differences have no intervals; "
                "evaluate it again"
            )
            return
    assert first.per_query is not None
    assert other.per_query is not None
    shared = first.per_query.keys() & other.per_query.keys()
    if not all(_same_queries(first.per_query[one], other.per_query[one]) for one in shared):
        yield f"{other.name}: other samples were skipped than of {first.name}: no intervals"


def _same_queries(first: PerQuery, other: PerQuery) -> bool:
    return first.numbers.equal(other.numbers) and first.captions.equal(other.captions)


def _recall(one: PerQuery, stem: str, k: int) -> np.ndarray:
    values: np.ndarray = 100.0 * (one.ranks[stem] < k).double().numpy()
    return values


def _share(one: PerQuery, name: str) -> np.ndarray:
    """Return the share that the queries of a direction have in a metric of both."""
    if name == "map":
        half: np.ndarray = one.values["map"].numpy() / 2
        return half
    recalls: np.ndarray = np.sum([_recall(one, "recall", k) for k in CUTOFFS], axis=0)
    return recalls


def _shards(measured: Mapping[str, Any] | None, part: str) -> tuple[str, object, object]:
    """Return the URL of a description's data or gallery, and what makes it the same one."""
    shards = (measured or {}).get(part)
    if not isinstance(shards, Mapping):
        return "none", None, None
    return str(shards.get("url")), shards.get("fingerprint"), shards.get("relevance")
