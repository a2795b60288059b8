"""A method made ready for a stage: what is trained, in which modes, and how blocks are computed."""

from xmodal.costs.flops import StepFlops
from xmodal.methods.method import Method
from xmodal.models.prepare_blocks import prepare_blocks
from xmodal.runs.deepspeed_adapter import weights_stay
from xmodal.training.config import StageConfig, TrainingConfig
from xmodal.training.gradient_cache import batch_norm_lines
from xmodal.training.parts import select_trained, set_modes

COMPILATION = 1800.0  # seconds that compiling the encoders may take at a stage's first step


def prepare_method(
    method: Method,
    stage: StageConfig,
    training: TrainingConfig,
    *,
    encoded: int,
    batch_size: int,
    freeze_batch_norm: bool,
) -> tuple[list[str], StepFlops]:
    """Make a method ready for a stage, in place.

    Return what the log says of it, and the FLOPs of its steps.
    `encoded` samples are encoded at a time, by all ranks together.
    """
    select_trained(method, stage.train, stage.lock)
    method.begin_stage(tuple(stage.losses))
    set_modes(method, freeze_batch_norm=freeze_batch_norm)
    flops = StepFlops(method)  # before blocks are computed twice, or compiled
    lines = [
        *batch_norm_lines(method, encoded, batch_size),
        *prepare_blocks(
            method,
            training.checkpoint_activations,
            compiles=training.compile,
            again=weights_stay,
        ),
    ]
    return lines, flops


def first_step(training: TrainingConfig) -> str:
    """Return the activity of a stage's first step."""
    return "first step, which compiles the encoders" if training.compile else "first step"


def step_patience(training: TrainingConfig, *, is_first: bool) -> float:
    """Return the seconds after which a step, or the wait for its data, counts as hung."""
    if not is_first:
        return training.watchdog
    # A loader's and an engine's first use is slow: files are opened, kernels compiled.
    return 3 * training.watchdog + (COMPILATION if training.compile else 0)
