"""Features of images that the shards hold (KEY.image.npy)."""

from typing import Literal

from pydantic import Field

from xmodal.models.config import FeaturesConfig, ImageEncoderConfig


class ImageFeaturesConfig(FeaturesConfig, ImageEncoderConfig):
    """No encoder: the shards hold features of images (KEY.image.npy), only the head learns."""

    kind: Literal["features"] = "features"
    preprocessing: None = Field(None, description="none: there are no images")

    @property
    def size(self) -> int:
        """Size of images; there are none."""
        return 1
