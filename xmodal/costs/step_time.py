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
    launching: float  # of kernels, by the host, while the GPU computes those before
    optimizer: float  # its state passes through the GPU's memory
    communication: float  # the links are busy
    hidden: float  # of it, while the backward pass continues
    decoding: float | None
    reading: float | None

    @property
    def total(self) -> float:
        """Seconds of a step."""
        busy = max(self.computing, self.launching) + self.optimizer
        exchanged = self.communication - self.hidden
        return max(busy + exchanged, self.decoding or 0, self.reading or 0)

    @property
    def bottleneck(self) -> str:
        """The part that takes longest."""
        seconds = {
            "computing": self.computing,
            "launching of kernels": self.launching,
            "optimiser": self.optimizer,
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
    launching: float = 0.0,
    optimizer: float = 0.0,
    decoding: float | None = None,
    reading: float | None = None,
) -> StepTime:
    """Return the time of a step.

    `flops` are those of a GPU, `rate` is what it reaches of its peak a second, `gradients` and
    `other` are the bytes that it sends over a `link` of so many a second, `launching` and
    `optimizer` are seconds. With `overlaps` gradients are exchanged while the backward pass
    continues.
    """
    computing, exchange = flops / rate, gradients / link
    hidden = min(exchange, BACKWARD * max(computing, launching)) if overlaps else 0.0
    return StepTime(
        computing, launching, optimizer, exchange + other / link, hidden, decoding, reading
    )
