"""Conditions at the end of a stage for the run to continue."""

from collections.abc import Mapping, Sequence

from xmodal.errors import UserError
from xmodal.evaluation.protocols.registry import all_metric_names
from xmodal.methods.method import Method
from xmodal.runs.progress import full_name, near_metric
from xmodal.training.config import StageConfig


def check_known(stage: StageConfig, method: Method, protocols: Sequence[str]) -> None:
    """Raise `UserError` where a stage has a condition on a number that nothing measures."""
    losses = [f"loss/{name}" for name in stage.losses or method.losses]
    metrics = all_metric_names(protocols, method)
    names = ["loss", *losses, *method.monitored, "grad_norm", *metrics]
    for name in stage.requires:
        if full_name(name, names) is None:
            raise UserError(
                f"stage {stage.name} requires {name}, which is no loss, no monitor and no metric "
                f"of evaluation.protocols{near_metric(name, names)}; there are {', '.join(names)}"
            )


def check_requirements(stage: StageConfig, measured: Mapping[str, float]) -> None:
    """Raise `UserError` where the numbers at the end of a stage violate its conditions."""
    for name, bounds in stage.requires.items():
        full = full_name(name, measured)
        if full is None:
            raise UserError(
                f"stage {stage.name} requires {name}, which nothing has measured; set "
                "evaluation.every or data.val, or leave it out of the stage's `requires`"
            )
        value, low, high = measured[full], bounds.at_least, bounds.at_most
        if (low is not None and not value >= low) or (high is not None and not value <= high):
            wanted = [f"at least {low:g}"] if low is not None else []
            wanted += [f"at most {high:g}"] if high is not None else []
            raise UserError(
                f"stage {stage.name} ended with {name} {value:g}, which must be "
                f"{' and '.join(wanted)}: the run stops here, its checkpoint kept; train in "
                "another run=DIR, or loosen the stage's `requires` to resume"
            )
