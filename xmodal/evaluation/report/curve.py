"""Curves as inline SVG, coloured by the page that they stand in."""

import math
import sys
from collections.abc import Mapping, Sequence

from xmodal.evaluation.report.page import escaped

WIDTH, HEIGHT = 480, 230
LEFT, RIGHT, TOP, BOTTOM = 48, 14, 10, 30  # margins for the labels of the ticks
MOST_POINTS = 1000

Point = tuple[float, float]


def curve(points: Sequence[Point], name: str) -> str:
    """Draw (step, value) points: faint as they are, and bold as their moving average.

    The page styles the classes `grid`, `raw` and `smooth`. Points that are not finite are
    skipped; with less than two the string is empty.
    """
    points = _thinned([(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)])
    if len(points) < 2:
        return ""
    last = max(x for x, _ in points) or 1.0
    low, high = min(y for _, y in points), max(y for _, y in points)
    lines = {"raw": points, "smooth": smoothed(points)}
    return _drawing(f"{name} by step", lines, last, low, high)


def line(points: Sequence[Point], label: str) -> str:
    """Draw a line through (x, value) points of x from 0 to 1, by the class `smooth`."""
    values = [y for _, y in points]
    return _drawing(label, {"smooth": points}, last=1, low=min(values), high=max(values))


def overlaid(lines: Mapping[str, Sequence[Point]], name: str) -> str:
    """Draw moving averages of (step, value) points of several runs, by the class of each.

    A line of one point is a dot. Points that are not finite are skipped; where no line has two the
    string is empty.
    """
    finite = {
        kind: _thinned([(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)])
        for kind, points in lines.items()
    }
    smooth = {kind: smoothed(points) for kind, points in finite.items() if points}
    if all(len(points) < 2 for points in smooth.values()):
        return ""
    places = [point for points in smooth.values() for point in points]
    last = max(x for x, _ in places) or 1.0
    values = [y for _, y in places]
    return _drawing(f"{name} by step", smooth, last, min(values), max(values))


def precision_recall(precisions: Mapping[str, Sequence[float]], name: str) -> str:
    """Draw lines of precision in percent at recalls from 0 to 1 that are equally far apart.

    The page styles the classes `grid` and those that the lines are named by.
    """
    lines = {
        kind: [(place / (len(values) - 1), value) for place, value in enumerate(values)]
        for kind, values in precisions.items()
    }
    return _drawing(f"{name}: precision by recall", lines, last=1, low=0, high=100)


def _drawing(
    label: str, lines: Mapping[str, Sequence[Point]], last: float, low: float, high: float
) -> str:
    """Draw lines by the class that styles them, from 0 to `last` and from `low` to `high`."""

    def place(point: Point) -> Point:
        x, y = point[0] / last, (point[1] - low) / ((high - low) or 1.0)
        return LEFT + x * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escaped(label)}">']
    for value in ticks(low, high):
        y = place((0, value))[1]
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for step in ticks(0, last):
        x = place((step, low))[0]
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - 10}" text-anchor="middle">{step:,.10g}</text>'
        )
    parts += [_polyline(kind, [place(point) for point in line]) for kind, line in lines.items()]
    return "\n".join([*parts, "</svg>"])


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from `low` to `high`, at most `most`; `low` alone where they are as good as
    equal.
    """
    rough = (high - low) / (most - 1)
    if rough < sys.float_info.min:
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(nice * power for nice in (1, 2, 5, 10) if nice * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    # By way of decimals, because 3 · 0.1 is 0.30000000000000004.
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def smoothed(points: Sequence[Point], share: float = 0.03) -> list[Point]:
    """Mean of each point and its neighbours within `share` of all points on either side."""
    reach = round(share * len(points))
    return [
        (x, sum(y for _, y in near) / len(near))
        for i, (x, _) in enumerate(points)
        if (near := points[max(0, i - reach) : i + reach + 1])
    ]


def _thinned(points: list[Point]) -> list[Point]:
    every = -(-len(points) // MOST_POINTS)
    return points[:: every or 1]


def _polyline(name: str, places: Sequence[Point]) -> str:
    if len(places) == 1:
        return f'<circle class="{name}" cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="4"/>'
    return f'<polyline class="{name}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>'
