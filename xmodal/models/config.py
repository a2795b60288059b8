"""The families of encoders and heads, by which a recipe's methods name theirs."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from xmodal.components.component import Component
from xmodal.components.config import Config
from xmodal.data.preprocessing import PreprocessingConfig
from xmodal.data.tokenizers.config import TokenizerConfig
from xmodal.errors import RenamedKeyWarning

WEIGHTS = (
    "`random`, `hub` (downloaded by name), `package` (from an installed package), or a file of a "
    "state dict"
)


class LoraConfig(Config):
    """Adapters of low rank, which are trained in place of an encoder's weights (LoRA, DoRA)."""

    rank: PositiveInt = Field(8, description="rank of the change of a weight matrix")
    alpha: PositiveFloat = Field(16.0, description="the change is multiplied by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of the adapters' input")
    targets: list[str] = Field(
        ["attention", "mlp"],
        min_length=1,
        description="layers that get an adapter: `attention`, `mlp` (linear layers outside "
        "attention), `convolutions` (of 1 x 1), or names of modules as in peft's target_modules",
    )
    dora: bool = Field(False, description="train the norm of each row apart (DoRA)")
    weights: str | None = Field(
        None, description="folder of an adapter that peft saved, to begin with; null: no change"
    )


class EncoderConfig(Component):
    """An encoder of images or of texts."""

    lora: LoraConfig | None = Field(
        None, description="adapters (peft) that are trained in place of its weights; null: none"
    )
    # Fields that are for others than the class that this describes.
    recipe_only: ClassVar[frozenset[str]] = frozenset()
    # Whether the shards hold features, of width `features`, which are read in the encoder's place.
    reads_features: ClassVar[bool] = False
    if TYPE_CHECKING:

        @property
        def features(self) -> int: ...  # where `reads_features`

    @property
    def pools_by_mean(self) -> bool:
        """True if features of a whole item are the mean of those of its parts."""
        return True

    @property
    def arguments(self) -> dict[str, Any]:
        """The fields by name, as the class takes them."""
        given = super().arguments
        others = {"lora", *self.recipe_only}
        return {name: value for name, value in given.items() if name not in others}

    def build(self, *args: Any, **kwargs: Any) -> Any:
        """Return the encoder, with its adapters where it has some."""
        encoder = super().build(*args, **kwargs)
        if self.lora:
            from xmodal.models.adapters import add_adapters

            add_adapters(encoder, self.lora, f"method.{self.family.split()[0]}.lora")
        return encoder

    def keep_architecture(self, folder: Path) -> None:
        """Write into a folder of the run all but weights that the encoder is built from.

        An encoder whose architecture comes from a hub or a file overrides this.
        """

    def without_weights(self, folder: Path) -> Self:  # noqa: ARG002
        """Return the encoder with random weights, in whose place a checkpoint's are loaded.

        It is built without a hub and without files but those of `keep_architecture`.
        """
        return self

    def with_new_adapters(self) -> Self:
        """Return the encoder with adapters that are not read from a folder."""
        new = self.lora and self.lora.model_copy(update={"weights": None})
        return self.model_copy(update={"lora": new})


class ImageEncoderConfig(EncoderConfig):
    """An image encoder.

    Has `size`, the height and width of its input in pixels. Builds an `Encoder` of images
    (batch, 3, size, size) uint8 from its fields, and from `mean` and `std` where a recipe gives
    them in `preprocessing`.
    """

    family: ClassVar[str] = "image encoder"
    preprocessing: PreprocessingConfig | None = Field(
        None, description="how an image becomes its input; null: the encoder's own"
    )
    if TYPE_CHECKING:

        @property
        def size(self) -> int: ...

    @property
    def arguments(self) -> dict[str, Any]:
        """The fields by name, as the class takes them; `mean` and `std` in place of preprocessing.

        Only those that a recipe gives: a class that normalises in its own way takes neither.
        """
        given = super().arguments
        given.pop("preprocessing", None)
        ours = self.preprocessing or PreprocessingConfig()
        values = {"mean": ours.mean, "std": ours.std}
        return given | {name: value for name, value in values.items() if value is not None}

    # Whether it gives an intermediate map too: its class takes a `level`, and has `lower_features`.
    has_levels: ClassVar[bool] = False

    @property
    def freezes_batch_norm(self) -> bool:
        """True if batch normalisation keeps its statistics while the encoder is trained."""
        return False


class TextEncoderConfig(EncoderConfig):
    """A text encoder.

    Has `context`, the longest caption in tokens, and `tokenizer`, a field or a property: the
    configuration of its tokenizer. Builds an `Encoder` of tokens (batch, length) int64 and their
    mask (batch, length) bool from its fields and `vocabulary`, the number of token ids.
    """

    family: ClassVar[str] = "text encoder"
    recipe_only: ClassVar[frozenset[str]] = frozenset({"tokenizer"})
    # Keys of the tokenizer that stood beside it in recipes of before.
    moved: ClassVar[frozenset[str]] = frozenset()
    if TYPE_CHECKING:

        @property
        def context(self) -> int: ...

        @property
        def tokenizer(self) -> TokenizerConfig: ...

    @property
    def has_own_vocabulary(self) -> bool:
        """True if the network has ids of its own, however many `vocabulary` says."""
        return False

    @model_validator(mode="before")
    @classmethod
    def _move(cls, values: Any) -> Any:
        found = cls.moved & values.keys() if isinstance(values, dict) else frozenset()
        if not found:
            return values
        tokenizer = values.get("tokenizer") or {"kind": cls.model_fields["tokenizer"].default.kind}
        for name in sorted(found):
            if not isinstance(tokenizer, dict) or name in tokenizer:
                raise ValueError(f"{name} is the old name of tokenizer.{name}: write that alone")
            said = f"the key {name} is now called tokenizer.{name}"
            warnings.warn(RenamedKeyWarning(said, name), stacklevel=2)
        others = {key: value for key, value in values.items() if key not in found}
        return others | {"tokenizer": tokenizer | {name: values[name] for name in found}}


class FeaturesConfig(Config):
    """Features that the shards hold in the place of an encoder, of images and of texts."""

    kind: Literal["features"] = "features"
    features: PositiveInt = Field(description="width of the features")
    reads_features: ClassVar[bool] = True
    builds: ClassVar[str | type] = "xmodal.models.features:Features"


class HeadConfig(Component):
    """The projection from an encoder's features into the common space.

    Builds a module (batch, features) → (batch, dim) from both widths and its fields.
    """

    family: ClassVar[str] = "head"
    default_kind: ClassVar[str] = "mlp"


# Activation of a transformer's hidden layers.
Activation = Literal["gelu", "quick_gelu", "gelu_tanh"]

# How positions of an image become its features.
ImagePooling = Literal["class", "mean", "attention"]

# Which states of a text's tokens are its features.
TextPooling = Literal["end_of_text", "last", "class", "mean"]

# How an image and the text that changes it become one.
Composition = Literal["tirg", "tirg_map", "concatenation", "sum", "image", "text"]
