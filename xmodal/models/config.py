"""The recipe's encoders."""

from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveInt

from xmodal.components.component import Component
from xmodal.components.config import Config

WEIGHTS = (
    "`random`, `hub` (downloaded by name), `package` (from an installed package), or a file of a "
    "state dict"
)


class ImageEncoderConfig(Component):
    """An image encoder."""

    family: ClassVar[str] = "image encoder"


class TextEncoderConfig(Component):
    """A text encoder."""

    family: ClassVar[str] = "text encoder"


class TimmConfig(ImageEncoderConfig):
    """An image encoder of the timm library, by name."""

    kind: Literal["timm"] = "timm"
    name: str = Field(description="name of a timm model, such as vit_small_patch16_224")
    weights: str = Field("random", description=WEIGHTS)
    size: PositiveInt = Field(224, description="height and width of its input, pixels")
    options: dict[str, Any] = Field({}, description="further arguments of timm.create_model")
    batch_norm: Literal["auto", "train", "eval"] = Field(
        "auto", description="mode of batch normalisation in training; auto: eval if pretrained"
    )


class TransformersConfig(TextEncoderConfig):
    """A text encoder of the transformers library, by hub name or local folder; mean-pooled."""

    kind: Literal["transformers"] = "transformers"
    name: str = Field(
        description="hub name or folder, such as sentence-transformers/all-MiniLM-L6-v2"
    )
    weights: Literal["pretrained", "package", "random"] = Field(
        "pretrained", description="`pretrained`, `package` (an installed package) or `random`"
    )
    context: PositiveInt = Field(64, description="longest caption, tokens; the rest is cut")


class TransformerConfig(TextEncoderConfig):
    """A small pre-norm transformer trained from scratch, its vocabulary learned from the shards."""

    kind: Literal["transformer"] = "transformer"
    vocabulary: int = Field(4096, ge=300, description="size of the byte-pair vocabulary")
    context: PositiveInt = Field(32, description="longest caption, tokens; the rest is cut")
    width: PositiveInt = Field(192, description="width of the residual stream")
    layers: PositiveInt = Field(4, description="number of blocks")
    heads: PositiveInt = Field(4, description="attention heads; divide the width")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of attention and residuals")


class RecurrentConfig(TextEncoderConfig):
    """What recurrent networks over words have in common, those that the shards' captions have."""

    vocabulary: int = Field(20_000, ge=5, description="most words; rarer ones are one unknown word")
    min_count: PositiveInt = Field(4, description="times that a word occurs, or it is unknown")
    context: int = Field(64, ge=3, description="longest caption, words; the rest is cut")
    word: PositiveInt = Field(300, description="width of a word")
    width: PositiveInt = Field(1024, description="width of the state, of each direction")
    layers: PositiveInt = Field(1, description="number of layers")
    bidirectional: bool = Field(False, description="read backwards too; features are both states")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of words")


class GruConfig(RecurrentConfig):
    """A GRU over words learned with it (VSE++, PVSE), those that the shards' captions have."""

    kind: Literal["gru"] = "gru"


class LstmConfig(RecurrentConfig):
    """An LSTM over words learned with it (TIRG), those that the shards' captions have."""

    kind: Literal["lstm"] = "lstm"
    word: PositiveInt = Field(512, description="width of a word")
    width: PositiveInt = Field(512, description="width of the state, of each direction")


class FeaturesConfig(Config):
    """No encoder: the shards hold its features (KEY.image.npy, KEY.text.npy), only heads learn."""

    kind: Literal["features"] = "features"
    features: PositiveInt = Field(description="their width")

    @property
    def size(self) -> int:
        """Pixels of images, which there are none of."""
        return 1

    @property
    def context(self) -> int:
        """Tokens of captions, which are not encoded."""
        return 1


class ImageFeaturesConfig(FeaturesConfig, ImageEncoderConfig):
    """No encoder: the shards hold features of images (KEY.image.npy), only the head learns."""


class TextFeaturesConfig(FeaturesConfig, TextEncoderConfig):
    """No encoder: the shards hold features of texts (KEY.text.npy), only the head learns."""


# How an image and the text that changes it become one.
Composition = Literal["tirg", "tirg_map", "concatenation", "sum", "image", "text"]


class HeadConfig(Config):
    """The projection from an encoder's features into the common space."""

    normalise: bool = Field(False, description="divide features by their length first (VSE++)")
    hidden: list[PositiveInt] = Field([], description="widths of hidden layers; none: linear")
    activation: Literal["gelu", "relu", "sigmoid"] = Field("gelu", description="of hidden layers")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout before the last layer")
    last: Literal["linear", "affine", "sigmoid"] = Field(
        "linear",
        description="last layer: `linear`, without a bias; `affine`, with it; `sigmoid` of that",
    )
