"""Collapse of embeddings into one point, which ends a run."""

from typing import ClassVar

from pydantic import Field, PositiveInt

from xmodal.components.component import Buildable


class CollapseConfig(Buildable):
    """Criterion of collapse: embeddings that have become one point."""

    share: float = Field(
        0.25,
        ge=0,
        lt=1,
        description="share of 1/sqrt(dim), the channel_std of spread directions: a run that "
        "stays below it stops; 0: never",
    )
    readings: PositiveInt = Field(5, description="logged steps in a row below the threshold")
    builds: ClassVar[str] = "CollapseWatch"


class CollapseWatch:
    """Watches the deviation of embeddings over a batch, which is 0 once they have collapsed."""

    def __init__(self, *, share: float = 0.25, readings: int = 5) -> None:
        self.share, self.readings = share, readings
        self.collapsed = 0  # logged steps in a row

    def failure_reason(self, std: float, dim: int) -> str | None:
        """Return the reason to stop, once embeddings have been collapsed for some logged steps.

        `std` is the mean deviation of a channel of embeddings of length 1 with `dim` channels.
        """
        healthy = dim**-0.5
        self.collapsed = self.collapsed + 1 if std < self.share * healthy else 0
        if self.collapsed < self.readings:
            return None
        # As many digits as it takes to tell them apart.
        digits = next(n for n in range(2, 18) if f"{std:.{n}g}" != f"{healthy:.{n}g}")
        return (
            f"embeddings have collapsed into one: channel_std is {std:.{digits}g}, where "
            f"directions that are spread have {healthy:.{digits}g} (1/√dim), at "
            f"{self.collapsed} logged steps in a row; train with a lower optimizer.lr, a "
            "larger data.batch_size or other data.augment in another run=DIR (method.collapse "
            "sets what counts as collapsed)"
        )
