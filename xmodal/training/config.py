"""The recipe's `stages`, `training` and `checkpoints`."""

from typing import Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
)

from xmodal.schema import Config, Duration, Span


class OptimizerConfig(Config):
    """AdamW (Loshchilov and Hutter 2019); decay on matrices only."""

    kind: Literal["adamw"] = "adamw"
    lr: PositiveFloat = Field(5e-4, description="learning rate at its highest")
    betas: tuple[float, float] = Field((0.9, 0.98), description="decay of the two moments")
    eps: PositiveFloat = Field(1e-6, description="added to the root of the second moment")
    weight_decay: NonNegativeFloat = Field(
        0.1, description="decay of matrices; vectors (biases, norms, temperature) never decay"
    )


class ScheduleConfig(Config):
    """Linear warm-up, then a half cosine down to a share of the learning rate."""

    warmup: Duration = Field(Span("5 %"), description="length of the linear rise")
    final: float = Field(0.0, ge=0, le=1, description="share of the learning rate at the end")


class StageConfig(Config):
    """One stretch of training: which parts, how long, by which optimiser and schedule."""

    name: str = Field("main", description="name in logs")
    train: list[str] = Field(
        ["*"],
        min_length=1,
        description="parts that are trained, by name or pattern (image, text.head, *.head); all "
        "others are locked",
    )
    length: Duration = Field(Span("10 epochs"), description="length of the stage")
    optimizer: OptimizerConfig = Field(OptimizerConfig(), description="the optimiser")
    schedule: ScheduleConfig = Field(ScheduleConfig(), description="its learning rate over time")
    clip_norm: NonNegativeFloat = Field(1.0, description="greatest gradient norm; 0: unlimited")

    @field_validator("length")
    @classmethod
    def _absolute(cls, length: Span) -> Span:
        if length.unit == "%" or not length.amount:
            raise ValueError("a stage's length is above zero, in steps, epochs or samples")
        return length


class TrainingConfig(Config):
    """How the engine runs."""

    seed: NonNegativeInt = Field(0, description="seed of weights, order, crops and dropout")
    zero: Literal[0, 1, 2, 3] = Field(0, description="DeepSpeed ZeRO stage: what ranks share out")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="precision of the encoders; auto: bf16 on GPUs, fp32 on CPUs"
    )
    log_every: PositiveInt = Field(10, description="steps between logged lines")


class CheckpointConfig(Config):
    """When the state of a run is written, and what is kept."""

    every: Duration = Field(Span("1 epochs"), description="between two checkpoints")
    keep_last: PositiveInt = Field(2, description="newest checkpoints that are kept")
    best: str = Field(
        "text_to_image/recall@10",
        description="metric whose best checkpoint is kept as well; the protocol may be left out",
    )
