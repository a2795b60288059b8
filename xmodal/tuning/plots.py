"""A sweep's trials as inline SVG, coloured by the page that they stand in."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xmodal.evaluation.report.curve import ticks
from xmodal.evaluation.report.page import escaped
from xmodal.tuning.config import SpaceConfig, ValuesConfig
from xmodal.tuning.journal import Trial

WIDTH, HEIGHT = 480, 230
LEFT, RIGHT, TOP, BOTTOM = 56, 18, 12, 30  # margins for the labels of the ticks


@dataclass(frozen=True)
class Axis:
    """An axis: places of values between 0 and 1, and the labelled values."""

    low: float
    high: float
    logarithmic: bool = False
    names: Sequence[str] = ()  # of a choice: its values, at equal distances

    def place(self, value: Any) -> float:
        """Return the place of a value, from 0 to 1."""
        if self.names:
            return (self.names.index(json.dumps(value)) + 0.5) / len(self.names)
        low, high, value = map(
            math.log10 if self.logarithmic else float, (self.low, self.high, value)
        )
        return (value - low) / ((high - low) or 1.0)

    def ticks(self) -> list[tuple[float, str]]:
        """Return the places and labels of some values."""
        if self.names:
            values = [json.loads(name) for name in self.names]
            written = [v if isinstance(v, str) else json.dumps(v) for v in values]
            return [(self.place(v), label) for v, label in zip(values, written, strict=True)]
        if not self.logarithmic:
            return [(self.place(value), f"{value:g}") for value in ticks(self.low, self.high)]
        first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
        powers = [10.0**power for power in range(first, last + 1)]
        named = powers if len(powers) > 1 else [self.low, self.high]
        return [(self.place(value), f"{value:.3g}") for value in named]


def axis_of(drawn: ValuesConfig, values: Sequence[Any]) -> Axis:
    """Return the axis of a key, with room for what trials had there: the recipe's own, too."""
    if drawn.range is None:
        choice = [json.dumps(value) for value in [*(drawn.choice or ()), *values]]
        return Axis(0, 1, names=list(dict.fromkeys(choice)))
    numbers = [*drawn.range, *(value for value in values if value is not None)]
    low, high = min(numbers), max(numbers)
    return Axis(low, high, logarithmic=drawn.log_uniform is not None and low > 0)


def over_time(trials: Sequence[Trial], best: str | None) -> str:
    """Draw each trial's metric by the samples that it had been trained on; "" without any."""
    measured = {trial.name: trial.measured for trial in trials if trial.measured}
    every = [one for own in measured.values() for one in own if math.isfinite(one.value)]
    if not every:
        return ""
    across = Axis(0, max(one.samples for one in every))
    up = Axis(min(one.value for one in every), max(one.value for one in every))
    lines = [
        _line(
            [_at(across.place(one.samples), up.place(one.value)) for one in own if one in every],
            name,
            best,
        )
        for name, own in _last(measured, best).items()
    ]
    return _drawing("the metric by samples", [*_grid(up), *_below(across), *lines])


def by_key(trials: Sequence[Trial], key: str, space: SpaceConfig, best: str | None) -> str:
    """Draw each trial's best evaluation by its value at a key; "" without any."""
    points = _measured(trials, space, [key])
    if not points:
        return ""
    across = axis_of(space.space[key], [trial.values[key] for trial, _ in points])
    up = Axis(min(value for _, value in points), max(value for _, value in points))
    dots = []
    for trial, value in points:
        x, y = _at(across.place(trial.values[key]), up.place(value))
        dots.append(
            f'<circle class="{_class(trial.name, best)}" cx="{x:.1f}" cy="{y:.1f}" r="4">'
            f"<title>{escaped(trial.name)}: {value:.4g}</title></circle>"
        )
    return _drawing(f"the metric by {key}", [*_grid(up), *_below(across), *dots])


def parallel(trials: Sequence[Trial], space: SpaceConfig, metric: str, best: str | None) -> str:
    """Draw each trial as a line over its values and its best evaluation; "" without any."""
    keys = list(space.space)
    points = _measured(trials, space, keys)
    if not points:
        return ""
    axes = [axis_of(space.space[key], [trial.values[key] for trial, _ in points]) for key in keys]
    axes.append(Axis(min(value for _, value in points), max(value for _, value in points)))
    width, height, top = 160 * len(axes), 300, 40
    places = [80 + 160 * number for number in range(len(axes))]

    def down(share: float) -> float:
        return height - 20 - share * (height - 20 - top)

    parts = []
    for number, (x, axis, name) in enumerate(zip(places, axes, [*keys, metric], strict=True)):
        shown = name if len(name) < 24 else f"…{name[-22:]}"
        label = f'<text x="{x}" y="{14 + 14 * (number % 2)}" text-anchor="middle">{escaped(shown)}'
        parts.append(f"{label}<title>{escaped(name)}</title></text>")
        parts.append(f'<path class="grid" d="M{x} {top}V{height - 20}"/>')
        parts += [
            f'<text x="{x + 6}" y="{down(share) + 4:.1f}">{escaped(label)}</text>'
            for share, label in axis.ticks()
        ]
    for trial, value in sorted(points, key=lambda point: point[0].name == best):
        own = [*(trial.values[key] for key in keys), value]
        shares = [axis.place(one) for axis, one in zip(axes, own, strict=True)]
        line = list(zip(places, map(down, shares), strict=True))
        parts.append(_line(line, trial.name, best))
    return _drawing("trials by their values", parts, width, height)


def _measured(
    trials: Sequence[Trial], space: SpaceConfig, keys: Sequence[str]
) -> list[tuple[Trial, float]]:
    """Return trials that have values at some keys, with their best evaluations."""
    return [
        (trial, best.value)
        for trial in trials
        if (best := trial.best(space.mode)) and all(key in trial.values for key in keys)
    ]


def _last(measured: dict[str, Any], best: str | None) -> dict[str, Any]:
    """Return trials in an order in which the best one is drawn over the others."""
    return dict(sorted(measured.items(), key=lambda item: item[0] == best))


def _at(x: float, y: float) -> tuple[float, float]:
    return LEFT + x * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM)


def _grid(axis: Axis) -> list[str]:
    parts = []
    for share, label in axis.ticks():
        y = _at(0, share)[1]
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escaped(label)}</text>'
        )
    return parts


def _below(axis: Axis) -> list[str]:
    return [
        f'<text x="{_at(share, 0)[0]:.1f}" y="{HEIGHT - 8}" text-anchor="middle">'
        f"{escaped(label)}</text>"
        for share, label in axis.ticks()
    ]


def _line(points: Sequence[tuple[float, float]], name: str, best: str | None) -> str:
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    title = f"<title>trial {escaped(name)}</title>"
    return f'<polyline class="{_class(name, best)}" points="{places}">{title}</polyline>'


def _class(name: str, best: str | None) -> str:
    return "trial best" if name == best else "trial"


def _drawing(label: str, parts: Sequence[str], width: int = WIDTH, height: int = HEIGHT) -> str:
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escaped(label)}">'
    return "\n".join([head, *parts, "</svg>"])
