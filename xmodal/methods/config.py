"""The recipe's `method`."""

from typing import Literal

from pydantic import Field, PositiveInt

from xmodal.models.config import HeadConfig, ImageConfig, TextConfig
from xmodal.objectives.config import InfoNCEConfig, PairObjectiveConfig
from xmodal.schema import Config


class ClipConfig(Config):
    """Two towers into one space, matched by a contrastive objective (Radford et al. 2021)."""

    kind: Literal["clip"] = "clip"
    image: ImageConfig = Field(description="the image encoder")
    text: TextConfig = Field(description="the text encoder")
    image_head: HeadConfig = Field(HeadConfig(), description="projection of image features")
    text_head: HeadConfig = Field(HeadConfig(), description="projection of text features")
    embedding: PositiveInt = Field(256, description="dimensions of the common space")
    objective: PairObjectiveConfig = Field(InfoNCEConfig(), description="what training minimises")


MethodConfig = ClipConfig
