"""Weights of losses as pure functions of the progress: there is nothing to save or restore."""

from collections.abc import Iterable, Mapping

from xmodal.objectives.warmup import adversarial_ramp
from xmodal.training.config import LossConfig


def loss_weight(loss: LossConfig, progress: float) -> float:
    """Return a loss's weight when this share of its stage is done, 0 to 1."""
    ramps = {"none": 1.0, "linear": progress, "adversarial": adversarial_ramp(progress)}
    return loss.weight * ramps[loss.ramp]


def loss_weights(
    losses: Mapping[str, LossConfig], names: Iterable[str], progress: float
) -> dict[str, float]:
    """Return the weights of losses by name; 1 of one that a stage does not configure."""
    return {name: loss_weight(losses.get(name, LossConfig()), progress) for name in names}
