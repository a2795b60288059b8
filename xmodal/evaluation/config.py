"""The recipe's `evaluation`."""

from pydantic import Field, PositiveInt

from xmodal.schema import Config, Duration, Span


class EvaluationConfig(Config):
    """When `data.val` is ranked during training, and how."""

    every: Duration = Field(Span("1 epochs"), description="between two evaluations in training")
    batch_size: PositiveInt = Field(256, description="samples that a rank encodes at a time")
    tile: PositiveInt = Field(2048, description="rows and columns that are scored at a time")
