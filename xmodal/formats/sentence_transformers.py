"""Folders of the sentence-transformers library that hold a CLIP or SigLIP."""

import json
from pathlib import Path

from xmodal.errors import UserError
from xmodal.formats import hugging_face
from xmodal.formats.dual_encoder import DualEncoder
from xmodal.small_files import read_small

MODULES = "modules.json"
_WHOLE = ("CLIPModel", "Transformer")  # modules that hold a model of transformers


def recognises(path: Path) -> bool:
    """Return True for a folder of modules."""
    return (path / MODULES).is_file()


def read(folder: Path) -> DualEncoder:
    """Return the model of a folder; its weights are read when they are asked for.

    Raises `UserError` for one that has other modules than a CLIP or SigLIP and its normalisation.
    """
    try:
        modules = [
            (str(one["type"]).rpartition(".")[2], str(one["path"]))
            for one in json.loads(read_small(folder / MODULES))
        ]
        (first, place), *others = modules
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{folder / MODULES} is no list of modules; download it again") from None
    model = folder / place
    if strange := [kind for kind, _ in others if kind != "Normalize"]:
        raise UserError(
            f"{folder} has a module {strange[0]} after its model; xmodal reads CLIP and SigLIP of "
            "sentence-transformers, with no module but Normalize after them"
        )
    # A place is within the folder: `modules.json` may come from anywhere.
    inside = model.resolve().is_relative_to(folder.resolve())
    if first not in _WHOLE or not inside or not hugging_face.recognises(model):
        raise UserError(
            f"{folder} is no model of images and texts ({first}); a text encoder of "
            "sentence-transformers is method.text={kind: transformers, name: FOLDER}"
        )
    return hugging_face.read(model)
