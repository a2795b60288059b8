"""A loss that does not move."""

from statistics import median


class Stagnation:
    """Detects a loss that does not move, from the start of its stage or soon after."""

    LINES = 20  # logged lines after which it is judged
    SETTLING = 5  # of them, the first, in which it may be anything
    SPREAD = 0.02  # relative deviations from its median that are noise
    DRIFT = 0.005  # relative change of the median, from half to half, that is none

    def __init__(self) -> None:
        self.stage, self.losses = "", list[float]()

    def warning(self, stage: str, loss: float) -> str | None:
        """Take the next logged loss of a stage; return a warning, once a stage."""
        if stage != self.stage:
            self.stage, self.losses = stage, []
        self.losses.append(loss)
        if len(self.losses) != self.LINES or self._moves():
            return None
        if loss == 0:
            return (
                f"the loss of stage {stage} is 0: nothing is left to learn, or no sample has a "
                "negative; are the image ids of the data right?"
            )
        return (
            f"the loss of stage {stage} stays at {loss:.4f}: is optimizer.lr too low or too high, "
            "or is there nothing in the data that tells samples apart?"
        )

    def _moves(self) -> bool:
        losses = self.losses[self.SETTLING :]
        middle, half = median(losses), len(losses) // 2
        drift = median(losses[:half]) - median(losses[half:])
        spread = max(abs(loss - middle) for loss in losses)
        return spread > self.SPREAD * abs(middle) or abs(drift) > self.DRIFT * abs(middle)
