"""The model that an index was made with, loaded for its queries."""

from pathlib import Path
from typing import cast

from xmodal.assembly.model import Model, load
from xmodal.data.storage import is_remote
from xmodal.errors import UserError
from xmodal.runs.averages import Weights
from xmodal.search.embeddings import ModelInfo


def indexed_model(info: ModelInfo, moved: str | None = None) -> Model:
    """Load the model of embeddings, from where it has moved to if that is given.

    Raises `UserError` where it is not there, or is another one.
    """
    source = moved or info.source
    is_path = Path(info.source).is_absolute() and not is_remote(info.source)
    if not moved and is_path and not Path(source).exists():
        raise UserError(
            f"{source}, the model of the embeddings, is missing; name it with --model RUN"
        )
    weights = cast(Weights | None, info.weights)
    return load(source, checkpoint=info.checkpoint or "latest", weights=weights)
