"""Tables of a study in Markdown: means over seeds, and paired differences with intervals."""

from collections.abc import Iterator, Mapping, Sequence
from math import sqrt
from statistics import mean, stdev

from scipy.stats import t as student

from benchmarks.studies.study import Study
from xmodal.runs.progress import full_name

LEVEL = 0.95  # of intervals
Metrics = dict[str, float]
Found = dict[str, list[Metrics]]  # the metrics of each seed, by their row of the table


def table(found: Found, columns: Mapping[str, str]) -> Iterator[str]:
    """Yield a table of the means of metrics, each with its standard deviation over seeds.

    `columns` are metrics, with or without their protocol, by their heads; those that no row has are
    skipped.
    """
    shown = {
        head: column
        for head, column in columns.items()
        if any(figures(seeds, column) for seeds in found.values())
    }
    yield from _lines(
        ["", *shown],
        ([row, *(_cell(figures(seeds, column)) for column in shown.values())]
         for row, seeds in found.items()),
    )  # fmt: skip


def differences(found: Found, study: Study) -> Iterator[str]:
    """Yield a table of the differences that a study compares, between rows that were measured."""
    pairs = [pair for pair in study.differences if all(row in found for row in pair)]
    heads = [
        head
        for head in study.compared
        if any(_paired(found, *pair, study.columns[head]) for pair in pairs)
    ]
    if pairs and heads:
        yield from _lines(
            ["difference", *heads],
            ([f"{one} − {other}",
              *(_difference(_paired(found, one, other, study.columns[head])) for head in heads)]
             for one, other in pairs),
        )  # fmt: skip
        yield ""


def by_variant(
    row: str, metrics: Metrics, variants: Mapping[str, str]
) -> Iterator[tuple[str, Metrics]]:
    """Yield a row's metrics, and as rows of their own those of variants of its protocols.

    `variants` are names of rows by the ending of a protocol's name, which they lose.
    """
    of = {name: next((end for end in variants if f"{end}/" in name), "") for name in metrics}
    for ending in ("", *variants):
        own = {name.replace(ending, "", 1): metrics[name] for name in of if of[name] == ending}
        if own:
            yield f"{row}, {variants[ending]}" if ending else row, own


def figures(seeds: Sequence[Metrics], column: str) -> list[float]:
    """Return a metric, with or without its protocol, of each seed that has it."""
    names = [full_name(column, one) for one in seeds]
    return [one[name] for one, name in zip(seeds, names, strict=True) if name]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of a mean by Student's t; needs two values or more."""
    half = student.ppf((1 + LEVEL) / 2, len(values) - 1) * stdev(values) / sqrt(len(values))
    return mean(values) - half, mean(values) + half


def _paired(found: Found, one: str, other: str, column: str) -> list[float]:
    """Return the differences of runs of one seed; a deterministic row stands for each seed."""
    first, second = figures(found[one], column), figures(found[other], column)
    if not (first and second):
        return []
    count = max(len(first), len(second))
    first, second = (values * count if len(values) == 1 else values for values in (first, second))
    return [a - b for a, b in zip(first, second, strict=False)]


def _difference(values: Sequence[float]) -> str:
    if len(values) < 2:
        return _signed(values[0]) if values else ""
    low, high = map(_signed, interval(values))
    return f"{_signed(mean(values))} ({low} to {high})"


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    digits = 1 if mean(values) >= 2 else 2
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{spread}"


def _lines(heads: Sequence[str], rows: Iterator[list[str]] | Sequence[list[str]]) -> Iterator[str]:
    """Yield the lines of a table in Markdown."""
    for cells in (list(map(str.strip, heads)), ["---"] * len(heads), *rows):
        yield f"| {' | '.join(cells)} |"
