"""From captions to token ids: a tokenizer read from a file or trained on captions."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch import Tensor

PAD, END = "<pad>", "<end>"


class CaptionTokenizer:
    """Turns a batch of captions into padded ids, at most `context` tokens each.

    The tokenizer is any `tokenizer.json` of the tokenizers library, so that pretrained ones and
    ours are one kind.
    """

    def __init__(self, tokenizer: Tokenizer, context: int) -> None:
        self.tokenizer, self.context = tokenizer, context
        padding = tokenizer.padding or {}
        self.pad = int(padding.get("pad_id", tokenizer.token_to_id(PAD) or 0))
        tokenizer.enable_truncation(context)
        tokenizer.enable_padding(pad_id=self.pad)

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return int(self.tokenizer.get_vocab_size())

    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return ids (captions, length) int64 and mask (captions, length) bool, False on padding;
        `length` is that of the longest caption.
        """
        encoded = self.tokenizer.encode_batch_fast(list(captions))
        ids = torch.tensor([one.ids for one in encoded], dtype=torch.int64)
        mask = torch.tensor([one.attention_mask for one in encoded], dtype=torch.bool)
        return ids, mask

    def save(self, path: Path) -> None:
        """Write the tokenizer's file, beside and renamed."""
        partial = path.with_suffix(".partial")
        self.tokenizer.save(str(partial))
        partial.replace(path)


def read_tokenizer(path: Path, context: int) -> CaptionTokenizer:
    """Read a `tokenizer.json`."""
    return CaptionTokenizer(Tokenizer.from_file(str(path)), context)


def train_tokenizer(captions: Iterable[str], vocabulary: int, context: int) -> CaptionTokenizer:
    """Train a byte-level BPE tokenizer (lower case, NFKC) of at most `vocabulary` ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
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
