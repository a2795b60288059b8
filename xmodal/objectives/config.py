"""The recipe's objectives."""

from typing import Literal

from pydantic import Field, PositiveFloat

from xmodal.schema import Config


class InfoNCEConfig(Config):
    """Symmetric InfoNCE (CLIP) over the global batch with a learned temperature."""

    kind: Literal["info_nce"] = "info_nce"
    scale: PositiveFloat = Field(1 / 0.07, description="inverse temperature at the start")
    max_scale: PositiveFloat = Field(100.0, description="greatest inverse temperature")
