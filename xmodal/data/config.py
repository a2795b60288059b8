"""The recipe's `data`: which shards, in which order, how many at a time, seen how."""

from typing import Literal

from pydantic import Field, PositiveInt

from xmodal.schema import Config


class DataConfig(Config):
    """Where samples come from and how the global batch is made of them."""

    train: str = Field(description="folder of the training shards")
    val: str | None = Field(None, description="folder of the shards to evaluate on")
    build: Literal["scenes"] | None = Field(
        None, description="data set to generate where `train` and `val` do not exist yet"
    )
    batch_size: PositiveInt = Field(256, description="pairs that the objective sees, all ranks")
    lanes: PositiveInt | None = Field(
        None,
        description="nearly sequential reads that a batch is drawn from; divides batch_size, and "
        "the ranks divide it; default: the greatest common divisor of batch_size and 64",
    )
    window: PositiveInt = Field(1024, description="samples of a lane that are permuted together")
    workers: int = Field(2, ge=0, description="loading processes a rank; 0 loads in the trainer")
    crop: tuple[float, float] | None = Field(
        (0.5, 1.0),
        description="random crop: least and greatest share of the image's area; null: centre crop",
    )
    flip: bool = Field(True, description="mirror half of the images left to right")
    max_bad_share: float = Field(
        0.01, ge=0, le=1, description="share of unreadable samples above which training stops"
    )
    cache_features: bool = Field(
        False,
        description="compute what an encoder that is never trained makes of the data once, before "
        "training; needs crop: null and flip: false",
    )
