"""The recipe's `evaluation`."""

from typing import Annotated

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt, field_validator

from xmodal.components.config import Config, Duration, Span
from xmodal.components.declared import declare
from xmodal.components.validation import nearest
from xmodal.evaluation.protocols.config import ProtocolConfig

declare("xmodal.evaluation.protocols")


def protocol_names() -> list[str]:
    """Return what `evaluation.protocols` and `--protocol` accept, those of plugins too."""
    return ["default", *ProtocolConfig.kinds]


def check_known(name: str) -> str:
    """Return a protocol's name; raise `ValueError` where no protocol has it."""
    names = protocol_names()
    if name not in names and not ProtocolConfig.is_known(name):
        known = ", ".join(map(repr, names[:-1]))
        raise ValueError(f"input should be {known} or {names[-1]!r}{nearest(name, names)}")
    return name


ProtocolName = Annotated[str, AfterValidator(check_known)]


class EvaluationConfig(Config):
    """When `data.val` is measured during training, and how."""

    every: Duration = Field(Span("1 epochs"), description="between two evaluations in training")
    protocols: list[ProtocolName] | None = Field(
        None,
        min_length=1,
        description="protocols, by the names in docs/evaluation.md; default, which null "
        "means too: relevance where the shards have relevance.json, else all-captions; visual of "
        "methods for images, composed of those for composed queries; one of "
        + ", ".join(protocol_names()),
    )
    templates: list[str] = Field(
        ["a photo of a {}."],
        min_length=1,
        description="of zero-shot: captions with {} in the place of a class's name",
    )
    all_pairs: NonNegativeInt = Field(
        4_000_000,
        description="most pairs (images × texts) that a learned score is computed for; with more, "
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
