"""SigLIP's sentencepiece tokenizer, as Hugging Face reads it (Zhai et al. 2023)."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors

from xmodal.data.cleaning import Cleaning
from xmodal.data.tokenizers.config import TokenizerConfig
from xmodal.data.tokens import MAX_TOKENIZER_BYTES, CaptionTokenizer, one_line
from xmodal.errors import UserError
from xmodal.extras import require
from xmodal.small_files import read_small

FILE, END, UNKNOWN = "spiece.model", "</s>", "<unk>"
UNIGRAM = 1  # model type of sentencepiece


class SiglipTokenizerConfig(TokenizerConfig):
    """The tokenizer of SigLIP in Hugging Face's form: canonical captions, padded to the context."""

    kind: Literal["siglip"] = "siglip"
    folder: str = Field(description="folder of a model with spiece.model")
    builds: ClassVar[str] = "siglip_tokenizer"

    @property
    def cleaning(self) -> Cleaning:
        """The canonical form of Hugging Face's tokenizer."""
        return "siglip"


def siglip_tokenizer(_captions: Iterable[str], context: int, *, folder: str) -> CaptionTokenizer:
    """Return the tokenizer of a SigLIP folder, which pads with its end; it reads no captions."""
    path = Path(folder) / FILE
    model = _read(path)
    with one_line(f"{path} is broken", "restore it"):
        return CaptionTokenizer(_tokenizer(model, context), context, "siglip")


def _tokenizer(model: Any, context: int) -> Tokenizer:
    tokenizer = Tokenizer(_pieces(model))
    tokenizer.normalizer = normalizers.Sequence(
        [
            *_characters(model),
            normalizers.Replace(Regex(" +"), "▁"),
            normalizers.Replace(Regex("▁+$"), ""),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    special = [AddedToken(name, normalized=False) for name in (END, UNKNOWN)]
    tokenizer.add_special_tokens(special)
    end = tokenizer.token_to_id(END)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, end)]
    )
    tokenizer.enable_padding(pad_id=end, pad_token=END, length=context)
    return tokenizer


def _read(path: Path) -> Any:
    """Return the message of a sentencepiece model; raises `UserError` for any other file."""
    require("pretrained")
    from google.protobuf.message import DecodeError
    from transformers.utils import sentencepiece_model_pb2_new

    if not path.is_file():
        raise UserError(f"{path.parent} has no {FILE}; name the folder of a SigLIP model")
    messages: Any = sentencepiece_model_pb2_new
    model = messages.ModelProto()
    try:
        model.ParseFromString(read_small(path, MAX_TOKENIZER_BYTES))
    except DecodeError as error:
        raise UserError(f"{path} is no sentencepiece model: {error}") from None
    names = {piece.piece for piece in model.pieces}
    if model.trainer_spec.model_type != UNIGRAM or not {END, UNKNOWN} <= names:
        raise UserError(f"{path} is no unigram model with {END} and {UNKNOWN}, as SigLIP's are")
    return model


def _pieces(model: Any) -> models.Unigram:
    pieces = [(piece.piece, piece.score) for piece in model.pieces]
    return models.Unigram(pieces, unk_id=model.trainer_spec.unk_id, byte_fallback=False)


def _characters(model: Any) -> list[normalizers.Normalizer]:
    """Return the mapping of characters of a sentencepiece model, if it has one."""
    table = model.normalizer_spec.precompiled_charsmap
    return [normalizers.Precompiled(table)] if table else []
