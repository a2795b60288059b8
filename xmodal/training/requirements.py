"""What must hold at the end of a stage for the run to go on."""

from collections.abc import Collection, Mapping, Sequence

from xmodal.errors import UserError
from xmodal.evaluation.protocols import metric_names
from xmodal.evaluation.similarity import BY_DISTANCE
from xmodal.training.config import StageConfig


def check_known(stage: StageConfig, shown: Collection[str], protocols: Sequence[str]) -> None:
    """Raise `UserError` where a stage requires something of a number that nobody will measure.

    What will be is what the log has `shown` of a step, and all that has the name of a protocol.
    """
    names = [*shown, *metric_names(protocols)]
    for name in stage.requires:
        of_protocol = name.split("/")[0].removesuffix(BY_DISTANCE) in protocols
        if not of_protocol and _find(name, names) is None:
            raise UserError(
                f"stage {stage.name} requires {name}, which is no metric and nothing that the log "
                f"shows; there are {', '.join(names)}"
            )


def measure(stage: StageConfig, values: Mapping[str, float]) -> dict[str, float]:
    """Return what a stage's requirements are about, as it is at its end."""
    found = {name: _find(name, values) for name in stage.requires}
    return {name: values[full] for name, full in found.items() if full is not None}


def check_requirements(stage: StageConfig, measured: Mapping[str, float]) -> None:
    """Raise `UserError` where what a stage requires does not hold."""
    for name, bounds in stage.requires.items():
        if name not in measured:
            raise UserError(f"stage {stage.name} requires {name}, which nothing has measured")
        value = measured[name]
        low, high = bounds.at_least, bounds.at_most
        if (low is not None and not value >= low) or (high is not None and not value <= high):
            wanted = [f"at least {low:g}"] if low is not None else []
            wanted += [f"at most {high:g}"] if high is not None else []
            raise UserError(
                f"stage {stage.name} ended with {name} {value:g}, which is to be "
                f"{' and '.join(wanted)}, so the next does not begin; the checkpoint is kept: "
                "train in another run=DIR, or loosen the stage's `requires` to go on"
            )


def _find(name: str, names: Collection[str]) -> str | None:
    return next((full for full in names if full == name or full.endswith(f"/{name}")), None)
