"""Single bytes: nothing is learned."""

from collections.abc import Iterable
from typing import ClassVar, Literal

from xmodal.data.tokenizers.byte_pair import train_tokenizer
from xmodal.data.tokenizers.config import TokenizerConfig
from xmodal.data.tokens import CaptionTokenizer


class BytesConfig(TokenizerConfig):
    """Single bytes: nothing is learned, no word is unknown, and captions are long."""

    kind: Literal["bytes"] = "bytes"
    builds: ClassVar[str] = "byte_tokenizer"


def byte_tokenizer(_captions: Iterable[str], context: int) -> CaptionTokenizer:
    """Return a tokenizer whose tokens are bytes; it reads no captions."""
    return train_tokenizer((), context, vocabulary=300)
