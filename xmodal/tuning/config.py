"""A sweep's SPACE.yaml: what is searched, how, and by which metric."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from xmodal.components.component import Component
from xmodal.components.config import Config, Duration, Mark, Span


class ValuesConfig(Config):
    """Values of a key: one of these."""

    uniform: tuple[float, float] | None = Field(None, description="numbers of a range")
    log_uniform: tuple[PositiveFloat, PositiveFloat] | None = Field(
        None, description="numbers of a range, each order of magnitude alike"
    )
    integers: tuple[int, int] | None = Field(
        None, description="whole numbers of a range, both ends with it"
    )
    choice: list[Any] | None = Field(
        None, min_length=2, description="these values, in an order if they have one"
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [getattr(self, name) for name in self.model_fields_set]
        if len(given) != 1 or given[0] is None:
            names = ", ".join(type(self).model_fields)
            raise ValueError(f"write one of {names}, such as {{log_uniform: [1e-5, 1e-2]}}")
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError("a range is [lowest, highest], the one below the other")
        return self

    @property
    def range(self) -> tuple[float, float] | None:
        """The ends of the range; None of a choice."""
        return self.uniform or self.log_uniform or self.integers

    @property
    def examples(self) -> list[Any]:
        """The values that stand for all others in checks: each of a choice; of a range its ends
        and, where it is of numbers that need not be whole, one that is not.
        """
        if self.range is None:
            return list(self.choice or ())
        low, high = self.range
        return [low, high] if self.integers else [low, high, low + (high - low) / 2**0.5]


class ResourcesConfig(Config):
    """Resources of a worker."""

    cpus: PositiveFloat = Field(1.0, description="CPUs, which may be parts of one")
    gpus: float | None = Field(
        None, ge=0, le=1, description="GPUs, 0 to 1; null: 1 where Ray has any, else none"
    )


class SchedulerConfig(Component):
    """Scheduler of trials: none, early stopping, or exchange of weights."""

    family: ClassVar[str] = "scheduler"


class NoSchedulerConfig(SchedulerConfig):
    """Every trial runs to its end."""

    kind: Literal["none"] = "none"


class AshaConfig(SchedulerConfig):
    """Asynchronous successive halving (Li et al. 2020): trials that lag behind are stopped."""

    kind: Literal["asha"] = "asha"
    grace: Duration = Field(Span("1 epochs"), description="length before which no trial is stopped")
    reduction: float = Field(
        3.0, gt=1, description="at 1, r, r², … times `grace`, the best 1/r of the trials continue"
    )


class PopulationConfig(SchedulerConfig):
    """Population-based training (Jaderberg et al. 2017): the worst take over the best's weights."""

    kind: Literal["pbt"] = "pbt"
    interval: Duration = Field(
        Span("1 epochs"), description="length between two exchanges of a trial"
    )
    quantile: float = Field(
        0.25,
        gt=0,
        le=0.5,
        description="share of trials that copy weights, and of those copied from",
    )
    resample: float = Field(
        0.25,
        ge=0,
        le=1,
        description="probability that a value is drawn anew; else it changes a little",
    )


class SpaceConfig(Config):
    """A sweep over a recipe."""

    metric: str = Field(
        description="metric of data.val that trials are compared by; the protocol may be omitted"
    )
    mode: Literal["max", "min"] = Field(
        "max", description="max: higher is better; min: lower is better"
    )
    trials: Annotated[PositiveInt, Mark.FREE] = Field(
        description="number of trials; the first is the recipe as it is. It may be raised later"
    )
    workers: PositiveInt = Field(1, description="processes (DeepSpeed ranks) of a trial")
    resources: Annotated[ResourcesConfig, Mark.FREE] = Field(
        ResourcesConfig(), description="resources of a worker"
    )
    search: Literal["random", "optuna"] = Field(
        "random", description="search of values: at random, or by Optuna's TPE"
    )
    scheduler: SchedulerConfig = Field(
        NoSchedulerConfig(), description="early stopping, or exchange of weights between trials"
    )
    seed: NonNegativeInt = Field(0, description="seed of the values; the run's is training.seed")
    space: dict[str, ValuesConfig] = Field(
        min_length=1, description="keys of the recipe, each with its values"
    )

    @model_validator(mode="after")
    def _own_gpus(self) -> Self:
        if self.workers > 1 and self.resources.gpus not in (None, 0, 1):
            raise ValueError(
                "resources.gpus: ranks of one trial do not share a GPU; write 0 or 1, or workers: 1"
            )
        return self

    @field_validator("scheduler", mode="before")
    @classmethod
    def _kind_alone(cls, scheduler: Any) -> Any:
        return {"kind": scheduler} if isinstance(scheduler, str) else scheduler

    @field_validator("space")
    @classmethod
    def _no_places(cls, space: dict[str, ValuesConfig]) -> dict[str, ValuesConfig]:
        if "run" in space:
            raise ValueError("`run` is not searched: each trial has a run folder of its own")
        return space
