"""Export of a trained model: a folder that another library, a server or `xmodal.load` reads."""

import json
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from xmodal.assembly.build import keep_architecture
from xmodal.assembly.model import Model
from xmodal.assembly.width import cut_to_width
from xmodal.atomic_files import write_atomically
from xmodal.data.cleaning import Cleaning
from xmodal.data.preprocessing import PreprocessingConfig
from xmodal.errors import UserError
from xmodal.formats.dual_encoder import DualEncoder
from xmodal.formats.model_card import model_card
from xmodal.formats.onnx import Shapes, write_onnx
from xmodal.formats.weight_files import write_weights
from xmodal.methods.towers import TwoTowers
from xmodal.models.adapters import merge_adapters
from xmodal.models.config import ImageEncoderConfig
from xmodal.objectives.info_nce import InfoNCEConfig
from xmodal.objectives.matryoshka import MatryoshkaConfig
from xmodal.runs.recipe_file import RECIPE, dump_recipe
from xmodal.small_files import read_small

Format = Literal["xmodal", "onnx", "open_clip", "hf", "sentence-transformers"]
WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"
# Modules of formats that hold two towers.
_OF_PAIRS = {
    "open_clip": "open_clip",
    "hf": "hugging_face",
    "sentence-transformers": "sentence_transformers",
}
_SCALED = ("open_clip", "hf")  # their models have a scale


def export(
    model: Model,
    folder: Path,
    to: Format,
    *,
    results: Path | None = None,
    licence: str = "unknown",
    int8: bool = False,
) -> list[str]:
    """Write a model into a new folder, and return lines on what was written.

    The model's adapters are merged, for good. `results` is a results.json for its card. Written
    beside and renamed. Raises `UserError` for a part that the format cannot express, and where the
    folder exists.
    """
    if folder.exists():
        raise UserError(f"--to {folder} exists; name a folder that does not")
    beside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(beside, ignore_errors=True)  # of a process that was killed
    try:
        beside.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"--to {folder} cannot be made: {error.strerror}; name another") from None
    try:
        lines = list(_write(model, beside, to, int8=int8))
        # Those of a run are of all numbers of its embeddings.
        metrics = {} if results is None or model.cut else _metrics(results)
        card = _card(model, folder.name, to, licence, metrics, lines)
        write_atomically(beside / "README.md", card)
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return lines


def _write(model: Model, folder: Path, to: Format, *, int8: bool) -> Iterator[str]:
    merge_adapters(model.method)
    if model.cut:
        left, whole = model.cut
        yield (
            f"embeddings: the first {left} of the {whole} numbers that were trained; the run's "
            "metrics are of all, and are not in the card"
        )
    if model.method.learned_score and to != "xmodal":
        kind = model.recipe.method.kind
        yield f"scores: {to} holds the encoders, not the learned score of {kind}"
    if to in _OF_PAIRS:
        encoder = _dual_encoder(model, to)
        module: Any = import_module(f"xmodal.formats.{_OF_PAIRS[to]}")
        module.write(encoder, model.tokenizer, folder)
        yield from _other_images(encoder.image, to)
        yield from _other_texts(encoder.tokenizer.cleaning, to)
        return
    if to == "onnx" and model.method.scores_sets:
        raise UserError(
            f"--format onnx: {model.recipe.method.kind} embeds an item as the vectors of its "
            "parts; use --format xmodal"
        )
    recipe = _without_adapters(model)
    write_atomically(folder / RECIPE, dump_recipe(recipe))
    model.tokenizer.save(folder / TOKENIZER)
    if to == "onnx":
        yield from write_onnx(model.method, folder, _shapes(model), int8=int8)
    else:
        keep_architecture(recipe.method, folder)
        write_weights(_contiguous(model.method), folder / WEIGHTS)


def _other_images(image: ImageEncoderConfig, to: Format) -> Iterator[str]:
    """Yield lines on how a format's library prepares images in another way."""
    ours = image.preprocessing or PreprocessingConfig()
    if ours.resize == "crop":
        yield (
            f"images: {to} has no resize: crop, and gets shortest (resize, then crop), which "
            "differs by less than a pixel"
        )
    theirs = "pillow" if to == "open_clip" else "torch"
    if ours.resizer != theirs:
        yield (
            f"images: {to} resizes by {theirs}, which differs by 1 to 4 grey levels from "
            f"method.image.preprocessing.resizer: {ours.resizer}"
            + (
                ""
                if ours.resize in ("squash", "longest")
                else ", and cuts some centres a pixel off"
            )
        )


def _other_texts(ours: Cleaning, to: Format) -> Iterator[str]:
    """Yield a line where a format's library repairs texts, and the model does not, or reversely."""
    repairs = ours not in ("none", "siglip")
    if repairs != (to == "open_clip"):
        yield (
            f"texts: {to} {'leaves' if repairs else 'repairs'} broken Unicode and HTML entities "
            f"(&amp;), which the model's own tokenizer {'repairs' if repairs else 'leaves'}"
            + ("" if repairs else ", and joins spaces")
        )


def _contiguous(method: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in method.state_dict().items()}


def _without_adapters(model: Model) -> Any:
    """Return the recipe of a model whose adapters have been merged."""
    method = model.recipe.method
    changed = {
        side: encoder.model_copy(update={"lora": None})
        for side in ("image", "text")
        if getattr(encoder := getattr(method, side), "lora", None) is not None
    }
    return model.recipe.model_copy(update={"method": method.model_copy(update=changed)})


def _dual_encoder(model: Model, to: Format) -> DualEncoder:
    method, config = model.method, _without_adapters(model).method
    if not isinstance(method, TwoTowers):
        raise UserError(
            f"--format {to} is for two towers, which {config.kind} has not; use --format onnx "
            "or xmodal"
        )
    if isinstance(getattr(config, "objective", None), MatryoshkaConfig):
        config = cut_to_width(method, _without_adapters(model), config.embedding).method
    weights = method.state_dict()
    if to in _SCALED and "loss.log_scale" not in weights:
        raise UserError(
            f"--format {to}: its models have a learned scale of scores, which {config.kind} "
            "with this objective has not; use --format sentence-transformers, onnx or xmodal"
        )
    return DualEncoder(
        image=config.image,
        text=config.text,
        image_head=config.image_head,
        text_head=config.text_head,
        embedding=config.embedding,
        objective=getattr(config, "objective", InfoNCEConfig()),
        weights=weights,
    )


def _shapes(model: Model) -> Shapes:
    image, text = model.recipe.method.image, model.recipe.method.text
    reads_texts = text is not None and not text.reads_features
    return Shapes(
        size=0 if image.reads_features else image.size,
        context=text.context if reads_texts else 0,
        vocabulary=model.tokenizer.vocabulary,
        fixed_length=model.tokenizer.padded,
        image_features=(image.features,) if image.reads_features else (),
        text_features=() if text is None or reads_texts else (text.features,),
    )


def _metrics(results: Path) -> dict[str, float]:
    """Return the metrics of a results.json; none where there is no such file."""
    if not results.is_file():
        return {}
    found = json.loads(read_small(results))
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


def _card(
    model: Model,
    name: str,
    to: Format,
    licence: str,
    metrics: dict[str, float],
    notes: list[str],
) -> str:
    recipe, data = model.recipe, model.recipe.data
    return model_card(
        name=name,
        to=to,
        licence=licence,
        recipe=dump_recipe(recipe),
        data={"data.train": ", ".join(map(str, data.train)), "data.val": data.val},
        metrics=metrics,
        notes=[f"torch {torch.__version__}", f"weights: {model.weights}", *notes],
    )
