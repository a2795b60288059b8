"""Tokenization of captions, by any tokenizer."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer, normalizers
from torch import Tensor

from xmodal.atomic_files import write_atomically
from xmodal.data.character_map import take_character_map
from xmodal.data.cleaning import Cleaning, cleaner
from xmodal.errors import UserError
from xmodal.small_files import read_small

MAX_TOKENIZER_BYTES = 1 << 26
PAD, END, START, UNKNOWN = "<pad>", "<end>", "<start>", "<unknown>"


class TokenCounts(NamedTuple):
    """Counts of captions that a tokenizer truncates and of words that it does not know."""

    captions: int
    cut: int  # captions that are longer than the context
    tokens: int  # without those of start, end and padding
    unknown: int  # tokens that stand for any word that is not in the vocabulary


class CaptionTokenizer:
    """Converts a batch of captions into padded ids, at most `context` tokens each.

    It reads any `tokenizer.json` of the tokenizers library, pretrained or trained by xmodal.
    Captions are cleaned first. One that pads to a fixed length pads to `context`, and its padding
    is part of the caption, as SigLIP's is. Tokens of the start and the end survive the cut.
    """

    def __init__(self, tokenizer: Tokenizer, context: int, clean: Cleaning = "none") -> None:
        self.tokenizer, self.context = tokenizer, context
        padding = tokenizer.padding or {}
        self.pad = int(padding.get("pad_id", tokenizer.token_to_id(PAD) or 0))
        self.padded = padding.get("length") is not None
        side = padding.get("direction", "right") if self.padded else "right"
        length = context if self.padded else None
        tokenizer.enable_truncation(context)
        tokenizer.enable_padding(direction=side, pad_id=self.pad, length=length)
        # Captions are read by what is left of a tokenizer whose character map cleaning applies.
        self.reader, replace = (
            take_character_map(tokenizer) if clean == "siglip" else (tokenizer, str)
        )
        self.clean = cleaner(clean, replace)

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return int(self.tokenizer.get_vocab_size())

    @property
    def largest_id(self) -> int:
        """Largest id of a caption: special tokens that none is given (T5's) are not counted."""
        added = self.tokenizer.get_added_tokens_decoder()
        words = (
            number
            for number in self.tokenizer.get_vocab().values()
            if not (number in added and added[number].special)
        )
        return max(self.pad, *words, *self(["", "\ufffd"])[0].flatten().tolist())

    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return ids (captions, length) int64 and mask (captions, length) bool, False on padding;
        `length` is that of the longest caption, or the context where all are padded to it.
        """
        with one_line("the tokenizer cannot read captions", "use another tokenizer.json"):
            encoded = self.reader.encode_batch_fast([self.clean(one) for one in captions])
        ids = torch.tensor([one.ids for one in encoded], dtype=torch.int64)
        mask = torch.tensor([one.attention_mask for one in encoded], dtype=torch.bool)
        return ids, torch.ones_like(mask) if self.padded else mask

    def count(self, captions: Sequence[str]) -> TokenCounts:
        """Count truncated captions and unknown words."""
        unknown = self.tokenizer.token_to_id(getattr(self.tokenizer.model, "unk_token", None) or "")
        with one_line("the tokenizer cannot read captions", "use another tokenizer.json"):
            encoded = self.reader.encode_batch([self.clean(one) for one in captions])
        ids = [
            token
            for one in encoded
            for token, special in zip(one.ids, one.special_tokens_mask, strict=True)
            if not special
        ]
        cut = sum(bool(one.overflowing) for one in encoded)
        return TokenCounts(len(encoded), cut, len(ids), sum(token == unknown for token in ids))

    def save(self, path: Path) -> None:
        """Write the tokenizer's file atomically."""
        write_atomically(path, self.tokenizer.to_str(pretty=True))


def read_tokenizer(path: Path, context: int, clean: Cleaning = "none") -> CaptionTokenizer:
    """Read a `tokenizer.json`; raises `UserError` for any other file."""
    with one_line(f"{path} is no tokenizer", "restore it, or remove it and train again"):
        tokenizer = Tokenizer.from_str(read_small(path, MAX_TOKENIZER_BYTES).decode())
        return CaptionTokenizer(tokenizer, context, clean)


def is_panic(error: BaseException) -> bool:
    """Return True for a panic of the tokenizers library, which is not an `Exception`."""
    return type(error).__name__ == "PanicException"


@contextmanager
def one_line(fault: str, remedy: str) -> Iterator[None]:
    """Convert errors of the library on a `tokenizer.json` into a `UserError`.

    That is anything while it is read, and later a bare `Exception`, or a panic, which is none: a
    pattern that backtracks too often makes one.
    """
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        raise UserError(f"{fault} ({error}): {remedy}") from None


def one_form() -> normalizers.Normalizer:
    """Return the normalizer that unifies case and forms of a character."""
    return normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
