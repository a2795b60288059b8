"""The recipe's `evaluation`."""

from typing import Literal, get_args

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from xmodal.components.config import Config, Duration, Span

Protocol = Literal[
    "default",
    "all-captions",
    "relevance",
    "flickr-1k",
    "coco-5k",
    "coco-1k-5fold",
    "class",
    "class-normalised",
    "gap",
    "zero-shot",
    "visual",
    "visual-graded",
    "composed",
    "fashion200k",
    "mit-states",
    "css",
    "fashion-iq",
    "cirr",
]
PROTOCOLS: tuple[str, ...] = get_args(Protocol)[1:]  # `default` is one of them


class EvaluationConfig(Config):
    """When `data.val` is measured during training, and how."""

    every: Duration = Field(Span("1 epochs"), description="between two evaluations in training")
    protocols: list[Protocol] | None = Field(
        None,
        min_length=1,
        description="what is measured, by the names in docs/evaluation.md; default, which null "
        "means too: relevance where the shards have relevance.json, else all-captions; visual of "
        "methods for images, composed of those for composed queries",
    )
    templates: list[str] = Field(
        ["a photo of a {}."],
        min_length=1,
        description="of zero-shot: captions with {} in the place of a class's name",
    )
    all_pairs: NonNegativeInt = Field(
        4_000_000,
        description="images × texts up to which a learned score is computed of all pairs; beyond, "
        "of a shortlist",
    )
    shortlist: PositiveInt = Field(
        100, description="each query's nearest items, which a learned score then puts in order"
    )
    batch_size: PositiveInt = Field(256, description="samples that a rank encodes at a time")
    tile: PositiveInt = Field(2048, description="rows and columns that are scored at a time")

    @field_validator("templates")
    @classmethod
    def _with_place(cls, templates: list[str]) -> list[str]:
        for template in templates:
            if "{}" not in template:
                raise ValueError("{} is missing, the place of a class's name")
        return templates
