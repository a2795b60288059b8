"""Keys that methods share."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from xmodal.components.component import Component
from xmodal.components.config import Config
from xmodal.methods.collapse import CollapseConfig
from xmodal.models import images, texts  # noqa: F401 - their components are those of a recipe
from xmodal.models.config import Composition, HeadConfig, ImageEncoderConfig, TextEncoderConfig
from xmodal.models.heads.mlp import MlpConfig

Retrieved = Literal["features", "projection"]


class MethodConfig(Component):
    """A method: its encoders and its losses.

    Has `image`, the image encoder, and `text`, the text encoder, None of methods without texts.
    Builds a `Method` from its fields, `vocabulary`, the number of token ids, and `bf16`.
    """

    family: ClassVar[str] = "method"
    if TYPE_CHECKING:
        image: Any
        text: Any

    @property
    def takes_extra(self) -> Sequence[str]:
        """Sides of data.negatives (texts, images) that all its losses take."""
        return ()


class TowersConfig(MethodConfig):
    """An encoder of images and one of texts, and their way into one space."""

    image: ImageEncoderConfig = Field(description="the image encoder")
    text: TextEncoderConfig = Field(description="the text encoder")
    image_head: HeadConfig | None = Field(
        MlpConfig(), description="projection of image features; null: they are the embedding"
    )
    text_head: HeadConfig | None = Field(
        MlpConfig(), description="projection of text features; null: they are the embedding"
    )
    embedding: PositiveInt = Field(256, description="dimensions of the common space")


class ExtraNegativesConfig(Config):
    """Keys of methods whose losses take the negatives of data.negatives."""

    extra_negatives: Literal["all", "own"] = Field(
        "all",
        description="samples that items of data.negatives are negatives of: all of the global "
        "batch, or their own alone",
    )


class ViewsConfig(MethodConfig):
    """An image encoder that learns from two views of an image."""

    image: ImageEncoderConfig = Field(description="the image encoder")
    projection: PositiveInt = Field(2048, description="dimensions of the projections z")
    prediction: PositiveInt = Field(512, description="width of the predictor's hidden layer")
    retrieved: Retrieved = Field(
        "features", description="embedding for retrieval: the features, or their projection"
    )
    collapse: CollapseConfig = Field(
        CollapseConfig(), description="criterion of collapse, which stops the run"
    )

    @model_validator(mode="after")
    def _has_views(self) -> Self:
        if self.image.reads_features:
            raise ValueError("image: two views are made of images, not of features; use kind: timm")
        return self


class ComposedConfig(TowersConfig):
    """An image and a text that modifies it, composed to retrieve the modified image."""

    embedding: PositiveInt = Field(512, description="dimensions of the common space")
    fusion: Composition = Field(
        "tirg",
        description="composition of source and text: TIRG's gate and residual, on vectors or "
        "on the last map; a network on both; their sum; one side alone",
    )
    norm: PositiveFloat = Field(
        4.0, description="initial length of queries and targets in losses; learned"
    )
