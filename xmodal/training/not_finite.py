"""A loss, or a norm of gradients, that is infinite or no number."""

from xmodal.training.timeline import StageSpan


def not_finite(name: str, value: float, span: StageSpan, step: int, batch_size: int) -> str:
    """Return why training stops at a value after `step` steps, and what to do."""
    position = (step - span.origin) * batch_size
    return (
        f"the {name} is {value} at step {step + 1} (stage {span.config.name}, positions "
        f"{position} to {position + batch_size - 1} of the data); "
        "train with a lower optimizer.lr or a longer schedule.warmup in another run=DIR"
    )
