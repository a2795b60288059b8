"""The family of tokenizers."""

from typing import ClassVar, Literal

from xmodal.components.component import Component
from xmodal.data.cleaning import Cleaning

# To what captions are padded.
Padded = Literal["longest", "context"]
PADDED = (
    "`longest` (to the longest caption, padding is masked), or `context` (to the context, and "
    "padding is part of the caption, as in SigLIP)"
)


class TokenizerConfig(Component):
    """A tokenizer.

    Builds, from the captions of the training set (an iterator, read only where something is learned
    from them), the longest caption in tokens, and the fields as keyword arguments, a
    `CaptionTokenizer`. `builds` may name a function.
    """

    family: ClassVar[str] = "tokenizer"
    # Whether captions have words that it does not know, whose share is worth reporting.
    has_unknown_words: ClassVar[bool] = False
    # What to do where many words are unknown.
    remedy: ClassVar[str] = "use an encoder whose tokenizer knows the language"

    @property
    def cleaning(self) -> Cleaning:
        """The cleaning of captions before its tokenizer.json reads them."""
        return "none"
