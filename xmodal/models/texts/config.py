"""Keys that the recurrent text encoders share."""

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from xmodal.data.tokenizers.config import TokenizerConfig
from xmodal.data.tokenizers.words import WordsConfig
from xmodal.models.config import TextEncoderConfig

RecurrentPooling = Literal["last", "max"]


class RecurrentConfig(TextEncoderConfig):
    """A recurrent network over words that are learned with it."""

    tokenizer: TokenizerConfig = Field(WordsConfig(), description="tokenizer of captions")
    context: int = Field(64, ge=3, description="longest caption, words; the rest is cut")
    word: PositiveInt = Field(300, description="width of a word")
    width: PositiveInt = Field(1024, description="width of the state, of each direction")
    layers: PositiveInt = Field(1, description="number of layers")
    bidirectional: bool = Field(
        False, description="read in both directions and concatenate the states"
    )
    pooling: RecurrentPooling = Field(
        "last",
        description="last: the state after the last word; max: the greatest of each number of the "
        "states of all words, which keeps which word stood beside which",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of words")

    recipe_only: ClassVar[frozenset[str]] = frozenset({"tokenizer", "context"})
    moved: ClassVar[frozenset[str]] = frozenset({"vocabulary", "min_count"})

    @property
    def pools_by_mean(self) -> bool:
        """False: features are the state after the last word, or the greatest of all."""
        return False
