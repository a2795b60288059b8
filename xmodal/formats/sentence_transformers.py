"""Folders of the sentence-transformers library: a CLIP or SigLIP; written, any two towers."""

import json
from pathlib import Path

from xmodal.data.tokens import CaptionTokenizer
from xmodal.errors import UserError
from xmodal.formats import hugging_face
from xmodal.formats.dual_encoder import DualEncoder
from xmodal.formats.sentence_modules import (
    NORMALIZE,
    ROUTER,
    TRANSFORMER,
    write_router,
    write_transformer,
)
from xmodal.formats.tokenizer_files import write_json
from xmodal.models.images.vit import VitConfig
from xmodal.models.texts.text_transformer import ClipTextConfig
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


def write(model: DualEncoder, tokenizer: CaptionTokenizer, folder: Path) -> None:
    """Write a model into a folder, which sentence-transformers reads.

    Raises `UserError`, which names the part, for one that its modules cannot express.
    """
    if isinstance(model.image, VitConfig) and isinstance(model.text, ClipTextConfig):
        hugging_face.write(model, tokenizer, folder)
        sides = {"text": "pooler_output", "image": "pooler_output"}
        methods = {side: f"get_{side}_features" for side in sides}
        write_transformer(
            folder, sides, methods, "sentence_embedding", pads=model.text.padding == "attended"
        )
        first = TRANSFORMER
    else:
        write_router(model, tokenizer, folder)
        first = ROUTER
    modules = [("", first), ("1_Normalize", NORMALIZE)]
    (folder / "1_Normalize").mkdir()
    write_json(folder / "1_Normalize" / "config.json", {})
    write_json(
        folder / MODULES,
        [
            {"idx": number, "name": str(number), "path": path, "type": kind}
            for number, (path, kind) in enumerate(modules)
        ],
    )
    kind = {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"}
    write_json(folder / "config_sentence_transformers.json", kind)
