"""Files of a tokenizer as the transformers library reads them."""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors

from xmodal.atomic_files import write_atomically
from xmodal.data.cleaning import Cleaning
from xmodal.data.tokenizers.config import TokenizerConfig
from xmodal.data.tokenizers.siglip import FILE as PIECES
from xmodal.data.tokenizers.siglip import SiglipTokenizerConfig
from xmodal.data.tokens import CaptionTokenizer

# Names of open_clip, and those by which transformers knows them.
_RENAMED = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
START, END = _RENAMED.values()
_CLIP_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)

_SPACES = [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
_PUNCTUATION = normalizers.Replace(Regex(r"[!-/:-@\[-`{-~]+"), "")
_CLEANED: dict[Cleaning, list[normalizers.Normalizer]] = {
    "none": [],
    "whitespace": _SPACES,
    "lower": [*_SPACES, normalizers.Lowercase()],
    "canonicalize": [
        normalizers.Replace("_", " "),
        _PUNCTUATION,
        normalizers.Lowercase(),
        *_SPACES,
    ],
    "siglip": [
        normalizers.Replace("▁", " "),
        normalizers.Lowercase(),
        _PUNCTUATION,
        *_SPACES,
        normalizers.Prepend("▁"),
    ],
    "clip": _SPACES,
}


class SpecialTokens(NamedTuple):
    """Ids of special tokens; None where a tokenizer has none."""

    start: int | None
    end: int | None
    pad: int


def special_tokens(tokenizer: CaptionTokenizer) -> SpecialTokens:
    """Return the ids that a tokenizer puts around a caption, and that of padding."""
    encoding = tokenizer.tokenizer.encode("")
    around = [
        token for token, seen in zip(encoding.ids, encoding.attention_mask, strict=True) if seen
    ]
    start = around[0] if len(around) > 1 else None
    return SpecialTokens(start, around[-1] if around else None, tokenizer.pad)


def write_tokenizer(tokenizer: CaptionTokenizer, config: TokenizerConfig, folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`; of CLIP, also files of older versions.

    Special tokens of CLIP are given the names that transformers asks for. Captions are cleaned as
    far as these files can say it: broken Unicode and HTML entities are not repaired.
    """
    text = tokenizer.tokenizer.to_str()
    is_clip = getattr(tokenizer.tokenizer.model, "end_of_word_suffix", None) == "</w>"
    if is_clip:
        for old, new in _RENAMED.items():
            text = text.replace(json.dumps(old), json.dumps(new))
    written = Tokenizer.from_str(text)
    written.no_padding()
    written.no_truncation()
    if is_clip:
        _read_as_clip(written)
        _write_clip_files(tokenizer, written, folder)
    elif before := _CLEANED[config.cleaning]:
        after = [] if written.normalizer is None else [written.normalizer]
        written.normalizer = normalizers.Sequence([*before, *after])
    write_atomically(folder / "tokenizer.json", written.to_str(pretty=True))
    settings = _settings(tokenizer, written, is_clip=is_clip)
    if isinstance(config, SiglipTokenizerConfig) and (Path(config.folder) / PIECES).is_file():
        # Exact, where what is cleaned before `tokenizer.json` reads it is nearly so.
        shutil.copyfile(Path(config.folder) / PIECES, folder / PIECES)
        settings |= {"tokenizer_class": "SiglipTokenizer"}
    write_json(folder / "tokenizer_config.json", settings)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _settings(tokenizer: CaptionTokenizer, written: Tokenizer, *, is_clip: bool) -> dict[str, Any]:
    special = special_tokens(tokenizer)
    padding = tokenizer.tokenizer.padding or {}
    pad = END if is_clip else written.id_to_token(special.pad)
    names = {
        "bos_token": written.id_to_token(special.start) if special.start is not None else None,
        "eos_token": written.id_to_token(special.end) if special.end is not None else None,
        "pad_token": pad,
        "unk_token": getattr(written.model, "unk_token", None),
    }
    # Padding that belongs to the caption is not masked.
    inputs = ["input_ids"] if padding.get("length") else ["input_ids", "attention_mask"]
    return {
        "tokenizer_class": "CLIPTokenizer" if is_clip else "PreTrainedTokenizerFast",
        "model_max_length": tokenizer.context,
        "model_input_names": inputs,
        "padding_side": padding.get("direction", "right"),
        "clean_up_tokenization_spaces": False,
        **{name: token for name, token in names.items() if token is not None},
    }


def _read_as_clip(tokenizer: Tokenizer) -> None:
    """Have a tokenizer read as transformers' CLIPTokenizer, which reads its vocabulary alone."""
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    start, end = ((name, int(tokenizer.token_to_id(name) or 0)) for name in (START, END))
    tokenizer.post_processor = processors.RobertaProcessing(
        end, start, trim_offsets=False, add_prefix_space=False
    )
    tokenizer.model.unk_token = END


def write_merges(tokenizer: CaptionTokenizer, folder: Path) -> None:
    """Write `merges.txt` of a tokenizer of byte pairs."""
    merges = json.loads(tokenizer.tokenizer.to_str())["model"]["merges"]
    pairs = (pair if isinstance(pair, str) else " ".join(pair) for pair in merges)
    write_atomically(folder / "merges.txt", "\n".join(["#version: 0.2", *pairs, ""]))


def _write_clip_files(tokenizer: CaptionTokenizer, written: Tokenizer, folder: Path) -> None:
    write_json(folder / "vocab.json", json.loads(written.to_str())["model"]["vocab"])
    write_merges(tokenizer, folder)
    names = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    write_json(folder / "special_tokens_map.json", names)
