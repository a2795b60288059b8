"""Why training stops: what a method finds, and losses and norms that are infinite or no number."""

from collections.abc import Mapping

from xmodal.methods.method import Method
from xmodal.training.timeline import StageSpan


def failed(method: Method, values: Mapping[str, float], span: StageSpan, step: int) -> str | None:
    """Return why a method stops training at a step whose values are given; None if it does not."""
    reason = method.failure_reason(values)
    return f"step {step}, stage {span.config.name}: {reason}" if reason else None


def not_finite(name: str, value: float, span: StageSpan, step: int, batch_size: int) -> str:
    """Return why training stops at a value after `step` steps, and what to do."""
    position = (step - span.origin) * batch_size
    return (
        f"the {name} is {value} at step {step + 1} (stage {span.config.name}, positions "
        f"{position} to {position + batch_size - 1} of the data); "
        "train with a lower optimizer.lr or a longer schedule.warmup in another run=DIR"
    )
