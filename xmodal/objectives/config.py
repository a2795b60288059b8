"""The recipe's objectives."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from xmodal.schema import Config


class PairwiseConfig(Config):
    """What objectives over all pairs of the global batch have in common."""

    tile: PositiveInt | None = Field(
        None, description="rows and columns of scores computed at a time; null: as suits the device"
    )


class InfoNCEConfig(PairwiseConfig):
    """InfoNCE (CLIP) over the global batch with a learned temperature."""

    kind: Literal["info_nce"] = "info_nce"
    scale: PositiveFloat = Field(1 / 0.07, description="inverse temperature at the start")
    max_scale: PositiveFloat = Field(100.0, description="greatest inverse temperature")
    direction: Literal["both", "rows", "columns"] = Field(
        "both", description="rows: each image among the texts; columns: each text among the images"
    )
    positives: Literal["pair", "same_id"] = Field(
        "pair", description="the pair alone, or all texts of the same image and all its images"
    )
