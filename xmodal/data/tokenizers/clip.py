"""Byte pairs of CLIP, on captions cleaned as open_clip cleans them (Radford et al. 2021)."""

import gzip
import importlib.util
import io
import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from xmodal.data.cleaning import Cleaning
from xmodal.data.tokenizers.config import PADDED, Padded, TokenizerConfig
from xmodal.data.tokens import MAX_TOKENIZER_BYTES, CaptionTokenizer, one_line
from xmodal.errors import UserError
from xmodal.hub import asking_hub, hub_failure
from xmodal.small_files import read_small

START, END = "<start_of_text>", "<end_of_text>"  # as open_clip calls them
MERGES = 49152 - 256 - 2
FILES = ("bpe_simple_vocab_16e6.txt.gz", "merges.txt", "tokenizer.json")
HUB = "openai/clip-vit-base-patch32"


class ClipTokenizerConfig(TokenizerConfig):
    """The tokenizer of CLIP and open_clip; captions are cleaned and lower-cased first."""

    kind: Literal["clip"] = "clip"
    folder: str | None = Field(
        None,
        description="folder of a model with bpe_simple_vocab_16e6.txt.gz, merges.txt or "
        "tokenizer.json; null, or where it has none: those of an installed open_clip, or of the "
        "hub",
    )
    pads: Padded = Field("longest", description=PADDED)
    builds: ClassVar[str] = "clip_tokenizer"

    @property
    def cleaning(self) -> Cleaning:
        """The cleaning of open_clip's own tokenizer."""
        return "clip"


def clip_tokenizer(
    _captions: Iterable[str],
    context: int,
    *,
    folder: str | None = None,
    pads: Padded = "longest",
) -> CaptionTokenizer:
    """Return the tokenizer of CLIP, which pads with 0; it reads no captions."""
    path = _in_folder(folder) or _in_open_clip() or _of_hub()
    tokenizer = Tokenizer(_byte_pairs(path))
    # Cleaning has separated words by spaces.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in (START, END)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in (START, END)],
    )
    tokenizer.enable_padding(pad_id=0, length=context if pads == "context" else None)
    return CaptionTokenizer(tokenizer, context, "clip")


def _byte_pairs(path: Path) -> models.BPE:
    """Return the model of a file that holds the merges of CLIP's tokenizer."""
    merges = _of_json(path) if path.suffix == ".json" else _of_lines(path)
    letters = _letters()
    names = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges), START, END]
    ids = {name: number for number, name in enumerate(names)}
    with one_line(f"{path} holds no merges of CLIP's tokenizer", "restore it, or remove it"):
        if merges and not any(right.endswith("</w>") for _, right in merges):
            raise ValueError("its words do not end in </w>")
        return models.BPE(ids, merges, end_of_word_suffix="</w>")


def _of_lines(path: Path) -> list[tuple[str, str]]:
    """Return the merges of a file, one pair a line below a line of its version."""
    lines = _text(path).split("\n")[1 : MERGES + 1]
    return [(left, right) for left, _, right in (line.partition(" ") for line in lines if line)]


def _of_json(path: Path) -> list[tuple[str, str]]:
    """Return the merges of a tokenizer.json; older ones hold a pair as one text.

    Raises `UserError` for one of another tokenizer.
    """
    with one_line(f"{path} holds no merges of CLIP's tokenizer", "restore it, or remove it"):
        merges = json.loads(_text(path))["model"]["merges"]
        pairs = [one.split(" ") if isinstance(one, str) else one for one in merges]
        return [(left, right) for left, right in pairs]


def _text(path: Path) -> str:
    data = read_small(path, MAX_TOKENIZER_BYTES)
    try:
        if path.suffix == ".gz":
            with gzip.open(io.BytesIO(data)) as file:
                data = file.read(MAX_TOKENIZER_BYTES)
        return data.decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path} holds no merges of CLIP's tokenizer: {error}") from None


def _letters() -> list[str]:
    """Return the letter of each byte, in the order of CLIP's ids: printable bytes come first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = len(set(range(256)) - set(printable))
    return [chr(code) for code in (*printable, *range(256, 256 + others))]


def _in_folder(folder: str | None) -> Path | None:
    return next((one for name in FILES if folder and (one := Path(folder) / name).is_file()), None)


def _in_open_clip() -> Path | None:
    """Return the file of an installed open_clip, which is found without being imported."""
    found = importlib.util.find_spec("open_clip")
    return _in_folder(str(Path(found.origin).parent)) if found and found.origin else None


def _of_hub() -> Path:
    try:
        from huggingface_hub import hf_hub_download

        with asking_hub():
            return Path(hf_hub_download(HUB, "merges.txt"))
    except Exception as error:  # whatever the network leads it to
        raise UserError(
            f"the vocabulary of CLIP's tokenizer is not here, and the hub did not give it "
            f"({hub_failure(error)}): pip install open_clip_torch, or put {FILES[0]} or "
            "tokenizer.json beside the model"
        ) from None
