"""The recipe's `data.teacher`: the model whose embeddings stand beside the samples."""

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt

from xmodal.components.config import Config, Mark


class TeacherConfig(Config):
    """A model that a student learns from, and the store of its embeddings.

    It may lie elsewhere when a run resumes; that it is the same is known by its digest.
    """

    source: Annotated[str, Mark.FREE] = Field(
        min_length=1,
        description="the model: a run, an exported folder, or another that xmodal.load takes",
    )
    checkpoint: Annotated[str, Mark.FREE] = Field(
        "latest", description="of a run: latest, best or step-N"
    )
    features: Annotated[str, Mark.FREE] = Field(
        min_length=1,
        description="folder that its embeddings are stored in, computed once for all runs",
    )
    views: PositiveInt = Field(
        4,
        description="augmentations of each image whose embeddings are stored; training sees these "
        "alone",
    )
    seed: NonNegativeInt = Field(0, description="seed of the augmentations")
