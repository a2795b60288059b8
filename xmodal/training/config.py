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

from xmodal.components.config import Config, Duration, Mark, Span, Was
from xmodal.data.storage import is_remote, scheme_of
from xmodal.training.optimizers.adamw import AdamWConfig
from xmodal.training.optimizers.config import OptimizerConfig
from xmodal.training.schedules.config import ScheduleConfig
from xmodal.training.schedules.cosine import CosineConfig


class LossConfig(Config):
    """One of the method's losses in a stage; where its weight is all there is, the number alone."""

    weight: NonNegativeFloat = Field(1.0, description="what the loss is multiplied by")
    ramp: Literal["none", "linear", "adversarial"] = Field(
        "none",
        description="what the weight is multiplied by as the stage proceeds: 1; 0 to 1 in a "
        "line; 2 / (1 + exp(-10 p)) - 1 of its progress p",
    )


class RequirementConfig(Config):
    """What a number has to be at a stage's end."""

    at_least: float | None = Field(None, description="least value; null: any")
    at_most: float | None = Field(None, description="greatest value; null: any")

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.at_least is None and self.at_most is None:
            raise ValueError("write at_least, at_most, or both")
        return self


class StageConfig(Config):
    """One stretch of training: which parts, by which losses, how long, by which optimiser."""

    name: str = Field("main", description="name in logs")
    train: list[str] = Field(
        ["*"],
        min_length=1,
        description="parts that are trained, by name or pattern (image, text.head, *.head); all "
        "others are locked",
    )
    losses: Annotated[dict[str, LossConfig], Mark.MUTABLE] = Field(
        {},
        description="those of the method's losses that are minimised, each with its weight; {}: "
        "the only one, where the method has one",
    )
    length: Duration = Field(Span("10 epochs"), description="length of the stage")
    data: Literal["continue", "restart"] = Field(
        "continue",
        description="the order of samples continues from the stage before, or begins once more",
    )
    optimizer: OptimizerConfig = Field(AdamWConfig(), description="the optimiser, new for each")
    schedule: ScheduleConfig = Field(CosineConfig(), description="its learning rate over time")
    clip_norm: Annotated[NonNegativeFloat, Mark.MUTABLE] = Field(
        1.0, description="greatest gradient norm; 0: unlimited"
    )
    requires: Annotated[dict[str, RequirementConfig], Mark.FREE] = Field(
        {},
        description="what must hold at the stage's end for the run to continue, by the names of "
        "metrics, losses and monitors; else the run stops there",
    )

    @field_validator("length")
    @classmethod
    def _absolute(cls, length: Span) -> Span:
        if length.unit == "%" or not length.amount:
            raise ValueError("a stage's length is above zero, in steps, epochs or samples")
        return length

    @field_validator("losses", mode="before")
    @classmethod
    def _weight_alone(cls, losses: Any) -> Any:
        if not isinstance(losses, dict):
            return losses
        return {k: {"weight": v} if type(v) in (int, float) else v for k, v in losses.items()}


class TrainingConfig(Config):
    """How the engine runs."""

    seed: NonNegativeInt = Field(0, description="seed of weights, order, crops and dropout")
    zero: Literal[0, 1, 2, 3] = Field(0, description="DeepSpeed ZeRO stage: what ranks share out")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="precision of the encoders; auto: bf16 on GPUs, fp32 on CPUs"
    )
    log_every: Annotated[PositiveInt, Mark.FREE] = Field(
        10, description="steps between logged lines"
    )
    rendezvous_timeout: Annotated[PositiveFloat, Mark.FREE, Was("roll_call")] = Field(
        300.0, description="seconds within which every rank has to answer before work begins"
    )
    watchdog: Annotated[PositiveFloat, Mark.FREE] = Field(
        900.0,
        description="seconds after which a step, or the wait for its data, counts as hung, and all "
        "ranks end to be started again; the first of a stage may take three times as long",
    )
    restarts: Annotated[NonNegativeInt, Mark.FREE] = Field(
        3, description="times that Slurm starts a job again without a newer checkpoint"
    )


class CheckpointConfig(Config):
    """When the state of a run is written, and what is kept."""

    every: Annotated[Duration, Mark.FREE] = Field(
        Span("1 epochs"), description="between two checkpoints"
    )
    keep_last: Annotated[PositiveInt, Mark.FREE] = Field(
        2, description="newest checkpoints that are kept"
    )
    best: str = Field(
        "text_to_image/recall@10",
        description="metric whose best checkpoint is kept as well; the protocol may be left out",
    )
    mirror: Annotated[str | None, Mark.FREE] = Field(
        None,
        description="folder of a bucket (s3://…) that checkpoints are copied to while training "
        "continues, and fetched from where the run folder has none (reached as data.s3 and "
        "data.storage say)",
    )

    @field_validator("mirror")
    @classmethod
    def _bucket(cls, mirror: str | None) -> str | None:
        if mirror and not is_remote(mirror):
            raise ValueError("write s3://BUCKET/FOLDER; on a disk, the run folder is enough")
        if mirror:
            scheme_of(mirror)
        return mirror
