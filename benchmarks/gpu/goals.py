"""Goals of speed on an H200, each with what was measured of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Values = Mapping[str, float]  # by the names of lines
LOSS = "InfoNCE 65,536"


@dataclass(frozen=True)
class Goal:
    """A bound, and how its value is found among those that a run has measured.

    `value` raises KeyError where something is missing.
    """

    words: str
    value: Callable[[Values], float]
    bound: float
    at_least: bool

    def measured(self, values: Values) -> float | None:
        """Return the value, or None where it was not measured."""
        try:
            return self.value(values)
        except KeyError:
            return None

    def is_met(self, value: float) -> bool:
        """Return True if a value reaches the goal."""
        return value >= self.bound if self.at_least else value <= self.bound


def best(model: str, what: str) -> Callable[[Values], float]:
    """Return the greatest value of a model's variants."""

    def find(values: Values) -> float:
        found = [
            value
            for name, value in values.items()
            if name.startswith(f"{model}, ") and name.endswith(f": {what}")
        ]
        if not found:
            raise KeyError(model)
        return max(found)

    return find


def beside_clip_loss(what: str) -> Callable[[Values], float]:
    """Return a ratio to ClipLoss at 65,536 pairs, or at half as many where it does not fit."""

    def find(values: Values) -> float:
        small = values.get(f"InfoNCE 32,768: {what} beside ClipLoss")
        found = values.get(f"{LOSS}: {what} beside ClipLoss", small)
        if found is None:
            raise KeyError(what)
        return found

    return find


def share_of_step(values: Values) -> float:
    """Return the time of the loss of 65,536 pairs as a share of a step of B/32 over as many."""
    seconds_of_step = 65_536 / best("B/32", "samples")(values)
    return values[f"{LOSS}: ours, time"] / 1000 / seconds_of_step


GOALS = (
    Goal("MFU of ViT-B/32, at least 40 %", best("B/32", "MFU"), 0.40, at_least=True),
    Goal("MFU of ViT-B/16, at least 45 %", best("B/16", "MFU"), 0.45, at_least=True),
    Goal("MFU of ViT-L/14, at least 45 %", best("L/14", "MFU"), 0.45, at_least=True),
    Goal("InfoNCE of 64k, at most 2 % of B/32's step", share_of_step, 0.02, at_least=False),
    Goal(
        "InfoNCE of 64k, at least 60 % of the matrix-product rate",
        lambda values: values[f"{LOSS}: share of the matrix-product rate"],
        0.6,
        at_least=True,
    ),
    Goal(
        "InfoNCE of 64k (32k where ClipLoss does not fit), at most half of its time",
        beside_clip_loss("time"),
        0.5,
        at_least=False,
    ),
    Goal(
        "InfoNCE of 64k (32k where ClipLoss does not fit), at most 1/20 of its memory",
        beside_clip_loss("memory"),
        0.05,
        at_least=False,
    ),
)
