"""The recipe's `stages`, `training` and `checkpoints`."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticKnownError

from xmodal.components.config import Config, Duration, Mark, Span, Was
from xmodal.data.storage import is_remote, scheme_of
from xmodal.training.optimizers.adamw import AdamWConfig
from xmodal.training.optimizers.config import OptimizerConfig
from xmodal.training.schedules.config import ScheduleConfig
from xmodal.training.schedules.cosine import CosineConfig
from xmodal.training.zero import ZeroConfig

DEFAULT_BEST = "text_to_image/recall@10"


class LossConfig(Config):
    """A loss of the method in a stage; a number alone is its weight."""

    weight: NonNegativeFloat = Field(1.0, description="factor of the loss")
    ramp: Literal["none", "linear", "adversarial"] = Field(
        "none",
        description="factor of the weight over the progress p of the stage, 0 to 1: 1; p; "
        "2 / (1 + exp(-10 p)) - 1",
    )


class RequirementConfig(Config):
    """Bounds of a number at the end of a stage."""

    at_least: float | None = Field(None, description="least value; null: any")
    at_most: float | None = Field(None, description="greatest value; null: any")

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.at_least is None and self.at_most is None:
            raise ValueError("write at_least, at_most, or both")
        return self


FirstGroups = Annotated[int, Field(ge=1)]


class EMAConfig(Config):
    """Exponential moving average of the weights, which is evaluated and saved beside them."""

    decay: Annotated[float, Mark.MUTABLE] = Field(
        0.999, gt=0, lt=1, description="share of the average that a step keeps"
    )
    warmup: Annotated[NonNegativeFloat, Mark.MUTABLE] = Field(
        9.0,
        description="w of min(decay, t / (t + w)), the share that is kept after t steps of the "
        "stage; 1: the mean of all steps at first; 0: decay at once",
    )


class StageConfig(Config):
    """A stage of training: its parts, losses, length and optimiser."""

    name: str = Field("main", description="name in logs")
    train: list[str] = Field(
        ["*"],
        min_length=1,
        description="trained parts, by name or pattern (image, text.head, *.head); all "
        "others are locked",
    )
    lock: dict[str, FirstGroups | list[str]] = Field(
        {},
        description="layers of towers that stay locked all the same: the number of a tower's "
        "first groups (embeddings, blocks.0, …), or a list of groups, by name or pattern; `norms` "
        "are its normalisation layers",
    )
    losses: Annotated[dict[str, LossConfig], Mark.MUTABLE] = Field(
        {},
        description="losses of the method that are minimised, each with its weight; {}: "
        "the only one, where the method has one",
    )
    length: Duration = Field(Span("10 epochs"), description="length of the stage")
    data: Literal["continue", "restart"] = Field(
        "continue",
        description="order of samples: continued from the stage before, or started again",
    )
    optimizer: OptimizerConfig = Field(AdamWConfig(), description="the optimiser, created anew")
    schedule: ScheduleConfig = Field(CosineConfig(), description="learning rate over time")
    ema: EMAConfig | None = Field(
        None, description="moving average of the trained weights, begun anew; null: none"
    )
    clip_norm: Annotated[NonNegativeFloat, Mark.MUTABLE] = Field(
        1.0, description="greatest gradient norm; 0: unlimited"
    )
    requires: Annotated[dict[str, RequirementConfig], Mark.FREE] = Field(
        {},
        description="conditions at the stage's end for the run to continue, by the names of "
        "metrics, losses and monitors; else the run stops there",
    )

    @field_validator("length")
    @classmethod
    def _absolute(cls, length: Span) -> Span:
        if length.unit == "%" or not length.amount:
            raise ValueError("a stage's length is above zero, in steps, epochs or samples")
        return length

    @model_validator(mode="after")
    def _one_average(self) -> Self:
        if self.ema and self.optimizer.averages:
            raise ValueError(f"{self.optimizer.kind} averages the weights by itself; remove ema")
        return self

    @field_validator("losses", mode="before")
    @classmethod
    def _weight_alone(cls, losses: Any) -> Any:
        if not isinstance(losses, dict):
            return losses
        return {k: {"weight": v} if type(v) in (int, float) else v for k, v in losses.items()}


class EarlyStoppingConfig(Config):
    """End of the run once a metric of the evaluation no longer improves."""

    metric: str | None = Field(
        None,
        description="metric of which higher is better; the protocol may be omitted; null: "
        "checkpoints.best",
    )
    patience: PositiveInt = Field(
        3, description="evaluations in a row without a gain, after which the run ends"
    )
    min_gain: NonNegativeFloat = Field(
        0.0, description="what a value must exceed the best one by to count as a gain"
    )


class ProfileConfig(Config):
    """Steps whose trace is written into the run folder."""

    at: int = Field(20, ge=2, description="first step that is profiled")
    steps: PositiveInt = Field(5, description="number of steps")


class TrainingConfig(Config):
    """Settings of the engine and of the run."""

    seed: NonNegativeInt = Field(0, description="seed of weights, order, crops and dropout")
    zero: ZeroConfig = Field(ZeroConfig(), description="DeepSpeed's ZeRO; a number is its stage")
    precision: Literal["auto", "fp32", "tf32", "bf16", "bf16_weights"] = Field(
        "auto",
        description="precision of the encoders; auto: bf16 on GPUs, fp32 on CPUs; bf16: weights "
        "stay fp32; bf16_weights: ZeRO keeps fp32 weights for the optimiser alone",
    )
    communication: Literal["fp32", "bf16"] = Field(
        "fp32", description="precision of gradients on their way between ranks"
    )
    deterministic: bool = Field(
        False, description="deterministic kernels alone: equal to the last bit on the same GPUs"
    )
    compile: bool = Field(
        False,
        description="compile the blocks of the encoders for training (torch.compile); takes "
        "seconds to minutes of the first step",
    )
    checkpoint_activations: Literal["none", "blocks", "selective"] = Field(
        "none",
        description="activations that the encoders keep for the backward pass: all (none); the "
        "inputs of their blocks, which are computed again (blocks); and the outputs of attention "
        "and of matrix products too (selective)",
    )
    early_stopping: Annotated[EarlyStoppingConfig | None, Mark.FREE] = Field(
        None, description="end of the run once its evaluations no longer improve; null: none"
    )
    log_every: Annotated[PositiveInt, Mark.FREE] = Field(
        10, description="steps between logged lines"
    )
    profile: Annotated[ProfileConfig | None, Mark.FREE] = Field(
        None,
        description="steps whose trace and memory rank 0 writes into the run folder; null: none",
    )
    rendezvous_timeout: Annotated[PositiveFloat, Mark.FREE, Was("roll_call")] = Field(
        300.0, description="seconds for every rank to answer before work begins"
    )
    watchdog: Annotated[PositiveFloat, Mark.FREE] = Field(
        900.0,
        description="seconds after which a step, or the wait for its data, counts as hung, and all "
        "ranks end to be started again; the first of a stage may take three times as long",
    )
    restarts: Annotated[NonNegativeInt, Mark.FREE] = Field(
        3, description="times that Slurm starts a job again without a newer checkpoint"
    )

    @field_validator("zero", mode="before")
    @classmethod
    def _stage_alone(cls, zero: Any) -> Any:
        if isinstance(zero, dict | ZeroConfig):
            return zero
        if str(zero) not in ("0", "1", "2", "3"):  # of an override, text
            raise PydanticKnownError("literal_error", {"expected": "0, 1, 2 or 3"})
        return {"stage": int(zero)}

    @model_validator(mode="after")
    def _master_weights(self) -> Self:
        if self.precision == "bf16_weights" and self.zero.stage < 2:
            raise ValueError(
                "precision bf16_weights needs ZeRO 2 or 3, which keeps the fp32 weights and adds "
                "up micro-batches in fp32: use training.zero=2"
            )
        return self


class CheckpointConfig(Config):
    """Checkpoints: when they are written, and which are kept."""

    every: Annotated[Duration, Mark.FREE] = Field(
        Span("1 epochs"), description="length between two checkpoints"
    )
    keep_last: Annotated[PositiveInt, Mark.FREE] = Field(
        2, description="number of newest checkpoints to keep"
    )
    best: str | None = Field(
        None,
        description="metric whose best checkpoint is also kept; the protocol may be omitted; null: "
        "text_to_image/recall@10 where it is measured, else the headline of the first protocol",
    )
    mirror: Annotated[str | None, Mark.FREE, Mark.LASTING] = Field(
        None,
        description="folder of a bucket (s3://…) for copies of checkpoints, made during training "
        "and fetched where the run folder has none; data.s3 and data.storage configure access",
    )

    @field_validator("best")
    @classmethod
    def _default_of_before(cls, best: str | None) -> str | None:
        # In run folders of before it stands as a value, and means the same.
        return None if best == DEFAULT_BEST else best

    @field_validator("mirror")
    @classmethod
    def _bucket(cls, mirror: str | None) -> str | None:
        if mirror and not is_remote(mirror):
            raise ValueError("write s3://BUCKET/FOLDER; on a disk, the run folder is enough")
        if mirror:
            scheme_of(mirror)
        return mirror
