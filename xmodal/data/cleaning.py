"""Cleaning of captions before a tokenizer reads them, where its file cannot describe it."""

import html
import re
import string
from collections.abc import Callable
from functools import partial
from typing import Literal

from xmodal.extras import require

Cleaning = Literal["none", "lower", "whitespace", "canonicalize", "clip", "siglip"]
CLEANING = (
    "`none`; open_clip's `whitespace`, `lower` and `canonicalize` (lower case, no punctuation), or "
    "`clip` (its own tokenizer's words); or `siglip` (Hugging Face's canonical form)"
)
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SPECIAL = re.compile(r"\s*(?:</s>|<unk>)\s*")  # of SigLIP, which take the spaces around them
# Words of CLIP's tokenizer (Radford et al. 2021, section 2.4), by the package regex.
_WORDS = (
    r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|"
    r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


def cleaner(name: Cleaning, replace: Callable[[str], str] = str) -> Callable[[str], str]:
    """Return the function that cleans captions; `replace` is sentencepiece's part of SigLIP's.

    Raises `UserError` where it needs a package that is not installed.
    """
    match name:
        case "none":
            return str
        case "siglip":
            return partial(siglip_form, replace=replace)
        case "clip":
            return _clip_words()
        case "lower":
            return _open_clip_form(str.lower)
        case "canonicalize":
            return _open_clip_form(canonical_form)
    return _open_clip_form(str)


def one_space(caption: str) -> str:
    """Return a caption with one space between words, and none around them."""
    return " ".join(caption.split())


def canonical_form(caption: str) -> str:
    """Return a caption in lower case and without ASCII punctuation (Zhai et al. 2023)."""
    return one_space(caption.replace("_", " ").translate(_NO_PUNCTUATION).lower())


def siglip_form(caption: str, replace: Callable[[str], str] = str) -> str:
    """Return a caption as Hugging Face's SigLIP canonicalizes it, special tokens as they are.

    It begins with the mark of a word (▁) once, unless with a special token. `replace` is
    sentencepiece's own normalization, of the texts between special tokens.
    """
    caption = "▁" + caption.replace("▁", " ")
    between = [replace(_siglip_part(part)) for part in _SPECIAL.split(caption)]
    special = [*(found.strip() for found in _SPECIAL.findall(caption)), ""]
    if len(between) > 1 and between[0] == "▁":
        between[0] = ""
    return "".join(text + token for text, token in zip(between, special, strict=True))


def _siglip_part(text: str) -> str:
    return re.sub(r"\s+", " ", text.lower().translate(_NO_PUNCTUATION)).strip()


def _open_clip_form(then: Callable[[str], str]) -> Callable[[str], str]:
    """Return open_clip's basic cleaning, one space between words, and then a step of its own."""
    require("pretrained")
    import ftfy

    def clean(caption: str) -> str:
        text = html.unescape(html.unescape(ftfy.fix_text(caption)))
        return then(one_space(text))

    return clean


def _clip_words() -> Callable[[str], str]:
    """Return the cleaning that leaves words of CLIP with a space between each two.

    The tokenizer's own classes of letters depend on its version of Unicode; regex has open_clip's.
    """
    clean = _open_clip_form(str.lower)
    import regex

    words = regex.compile(_WORDS, regex.IGNORECASE)
    return lambda caption: " ".join(words.findall(clean(caption)))
