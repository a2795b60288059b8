"""The model that an index was made with, loaded for its queries."""

from pathlib import Path
from typing import cast

from xmodal.assembly.model import Model, load
from xmodal.assembly.model_digest import model_digest
from xmodal.assembly.model_source import is_folder_of_model
from xmodal.errors import UserError
from xmodal.runs.averages import Weights
from xmodal.search.embeddings import ModelInfo


def indexed_model(info: ModelInfo, moved: str | None = None) -> Model:
    """Load the model of embeddings, from where it has moved to if that is given.

    Raises `UserError` where it is not there, or is another one.
    """
    source = moved or info.source
    if not moved and Path(source).is_absolute() and not Path(source).exists():
        raise UserError(
            f"{source}, the model of the embeddings, is missing; name it with --model RUN"
        )
    try:
        model = _loaded(source, info)
    except UserError as error:
        if not moved:
            raise
        raise UserError(f"--model {moved} is not the model of the embeddings: {error}") from None
    if model_digest(model) != info.digest:
        raise UserError(
            f"{source} is not the model of the embeddings, or has changed since; name that with "
            "--model RUN, or embed again"
        )
    return model


def _loaded(source: str, info: ModelInfo) -> Model:
    if is_folder_of_model(source):
        return load(source, width=info.width)
    weights = cast(Weights | None, info.weights)
    return load(source, checkpoint=info.checkpoint or "latest", weights=weights, width=info.width)
