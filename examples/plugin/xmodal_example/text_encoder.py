"""A text encoder that reads letters, and the tokenizer that it has by default."""

from collections.abc import Iterable
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn

from xmodal.data.tokenizers.config import TokenizerConfig
from xmodal.data.tokens import END, PAD, UNKNOWN, CaptionTokenizer
from xmodal.models.config import TextEncoderConfig
from xmodal.models.encoder import Encoder, Local, masked_local, masked_mean


class LettersConfig(TokenizerConfig):
    """Single characters of a fixed alphabet; all others are one unknown character."""

    kind: Literal["letters"] = "letters"
    alphabet: str = Field("abcdefghijklmnopqrstuvwxyz ", description="characters that are known")
    builds: ClassVar[str] = "letter_tokenizer"


def letter_tokenizer(
    _captions: Iterable[str], context: int, *, alphabet: str = "abcdefghijklmnopqrstuvwxyz "
) -> CaptionTokenizer:
    """Return a tokenizer of characters, in lower case.

    Others learn a vocabulary from the captions of the training set. Whatever the tokenizer, the run
    folder keeps it as `tokenizer.json`, which is read without this module.
    """
    tokens = [PAD, UNKNOWN, END, *dict.fromkeys(alphabet)]
    known = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    # The end token gives every caption, the empty one too, something to pool over.
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, known[END])]
    )
    return CaptionTokenizer(tokenizer, context)


class LetterNetConfig(TextEncoderConfig):
    """A convolutional network over letters."""

    kind: Literal["letternet"] = "letternet"
    # Every text encoder has a tokenizer and a context. A recipe may choose another tokenizer:
    # `method.text.tokenizer={kind: words}`.
    tokenizer: TokenizerConfig = Field(LettersConfig(), description="what makes tokens of captions")
    context: PositiveInt = Field(64, description="longest caption, tokens; the rest is cut")
    width: PositiveInt = Field(64, description="channels of every layer")
    layers: PositiveInt = Field(2, description="layers, each of which sees two letters further")
    builds: ClassVar[str] = "LetterNet"
    recipe_only: ClassVar[frozenset[str]] = frozenset({"tokenizer", "context"})


class LetterNet(Encoder):
    """Residual convolutions over embedded tokens, mean-pooled."""

    def __init__(self, vocabulary: int, *, width: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.letters = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(nn.Conv1d(width, width, 5, padding=2) for _ in range(layers))
        self.features = self.local_features = width

    def forward(self, tokens: Tensor, mask: Tensor, *, local: bool = False) -> Tensor | Local:
        """Return features (batch, features) of tokens (batch, length) and mask (batch, length)."""
        states = self.letters(tokens)
        for layer in self.layers:
            # Zero on padding, so that a caption's features are the same in every batch.
            inside = states * mask[..., None]
            states = states + nn.functional.gelu(layer(inside.mT).mT)
        return masked_local(states, mask) if local else masked_mean(states, mask)
