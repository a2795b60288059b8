"""Time of a step on hardware that is not at hand, and what limits it."""

from dataclasses import dataclass

# Of computing, about what the backward pass takes: gradients may be exchanged meanwhile.
BACKWARD = 2 / 3


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step by what needs them; None of what is not known.

    Computing and what is exchanged in the open follow each other; loading runs beside both.
    """

    computing: float
    communication: float  # the links are busy
    hidden: float  # of it, while the backward pass continues
    decoding: float | None
    reading: float | None

    @property
    def total(self) -> float:
        """Seconds of a step."""
        on_gpus = self.computing + self.communication - self.hidden
        return max(on_gpus, self.decoding or 0, self.reading or 0)

    @property
    def bottleneck(self) -> str:
        """The part that takes longest."""
        seconds = {
            "computing": self.computing,
            "communication": self.communication - self.hidden,
            "decoding of images": self.decoding or 0,
            "reading of shards": self.reading or 0,
        }
        return max(seconds, key=seconds.__getitem__)


def step_time(
    *,
    flops: float,
    rate: float,
    gradients: float,
    other: float,
    link: float,
    overlaps: bool,
    decoding: float | None = None,
    reading: float | None = None,
) -> StepTime:
    """Return the time of a step.

    `flops` are those of a GPU, `rate` is what it reaches of its peak a second, `gradients` and
    `other` are the bytes that it sends over a `link` of so many a second. With `overlaps`
    gradients are exchanged while the backward pass continues.
    """
    computing, exchange = flops / rate, gradients / link
    hidden = min(exchange, BACKWARD * computing) if overlaps else 0.0
    return StepTime(computing, exchange + other / link, hidden, decoding, reading)
