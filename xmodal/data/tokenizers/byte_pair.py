"""Byte pairs learned from the captions (Sennrich et al. 2016, arXiv 1508.07909)."""

from collections.abc import Iterable
from typing import ClassVar, Literal

from pydantic import Field
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from xmodal.data.tokenizers.config import TokenizerConfig
from xmodal.data.tokens import END, PAD, CaptionTokenizer, one_form


class BytePairConfig(TokenizerConfig):
    """Byte pairs, learned from the captions of the training set: no word is unknown."""

    kind: Literal["byte_pair"] = "byte_pair"
    vocabulary: int = Field(4096, ge=300, description="size of the byte-pair vocabulary")
    builds: ClassVar[str] = "train_tokenizer"


def train_tokenizer(
    captions: Iterable[str], context: int, *, vocabulary: int = 4096
) -> CaptionTokenizer:
    """Train a byte-level BPE tokenizer (lower case, NFKC) of at most `vocabulary` ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = one_form()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    # The end token gives every caption, the empty one too, something to pool over.
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, tokenizer.token_to_id(END))]
    )
    return CaptionTokenizer(tokenizer, context)
