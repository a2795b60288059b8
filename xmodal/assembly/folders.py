"""Models from folders that are no runs: exported ones, and those of other libraries."""

from pathlib import Path

import torch

from xmodal.assembly.build import build_method, check_ids
from xmodal.assembly.model_source import is_exported
from xmodal.assembly.pretrained import describe, load_pretrained
from xmodal.assembly.recipe import Recipe, load_recipe
from xmodal.assembly.vocabulary import load_tokenizer
from xmodal.components.validation import validate
from xmodal.data.tokens import CaptionTokenizer
from xmodal.errors import UserError
from xmodal.formats.onnx_model import OnnxMethod
from xmodal.formats.weight_files import open_weights
from xmodal.methods.method import Method
from xmodal.runs.run import Run

Loaded = tuple[Method, Recipe, CaptionTokenizer]


def load_folder(source: str | Path, device: torch.device) -> Loaded:
    """Return the method of an exported folder or of a pretrained source, with its recipe and its
    tokenizer.

    Raises `UserError` where it is neither, or damaged.
    """
    path = Path(source)
    return _exported(path, device) if is_exported(path) else _pretrained(str(source), device)


def _exported(path: Path, device: torch.device) -> Loaded:
    recipe = load_recipe(path)
    tokenizer = load_tokenizer(recipe.method, Run(path).tokenizer)
    if any(path.glob("*.onnx")):
        return _of_onnx(recipe, path), recipe, tokenizer
    method = build_method(recipe, tokenizer.vocabulary, device, of_run=path)
    check_ids(method, tokenizer)
    try:
        method.load_state_dict(dict(open_weights(path)))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{path} does not fit its recipe: {reason}; export it again") from None
    return method.to(device), recipe, tokenizer


def _of_onnx(recipe: Recipe, path: Path) -> Method:
    image, text = recipe.method.image, recipe.method.text
    return OnnxMethod(
        recipe.method.built_class(),
        path,
        image_features=image.reads_features,
        text_features=text is not None and text.reads_features,
    )


def _pretrained(source: str, device: torch.device) -> Loaded:
    values = {
        "run": source,
        "data": {"train": source},
        "method": {"kind": "clip", "pretrained": source},
    }
    recipe = validate(Recipe, describe(values), source)
    text = recipe.method.text
    tokenizer = text.tokenizer.build((), text.context)
    method = build_method(recipe, tokenizer.vocabulary, device)
    check_ids(method, tokenizer)
    list(load_pretrained(method, recipe))
    return method.to(device), recipe, tokenizer
