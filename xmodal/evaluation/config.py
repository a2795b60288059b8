"""The recipe's `evaluation`."""

from typing import Annotated

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt, field_validator
from pydantic_core import PydanticCustomError

from xmodal.components.config import Config, Duration, Span
from xmodal.components.declared import declare
from xmodal.components.validation import nearest
from xmodal.evaluation.protocols.config import ProtocolConfig

declare("xmodal.evaluation.protocols")


def protocol_names() -> list[str]:
    """Return what `evaluation.protocols` and `--protocol` accept, those of plugins too."""
    return ["default", *ProtocolConfig.kinds]


def check_known(name: str) -> str:
    """Return a protocol's name; raise `ValueError`, which continues `NAME is not allowed`, where no
    protocol has it.
    """
    names = protocol_names()
    if name not in names and not ProtocolConfig.is_known(name):
        hint = f"{nearest(name, names)}; allowed: {', '.join(names)}"
        raise PydanticCustomError("unknown_name", "{hint}", {"hint": hint})
    return name


ProtocolName = Annotated[str, AfterValidator(check_known)]


class EvaluationConfig(Config):
    """When `data.val` is measured during training, and how."""

    every: Duration = Field(Span("1 epochs"), description="length between two evaluations")
    protocols: list[ProtocolName] | None = Field(
        None,
        min_length=1,
        description="protocols, by the names in docs/evaluation.md; null: relevance "
        "if the shards have relevance.json, else all-captions; visual for methods of images, "
        "composed for methods of composed queries; one of " + ", ".join(protocol_names()),
    )
    templates: list[str] = Field(
        ["a photo of a {}."],
        min_length=1,
        description="captions of zero-shot, with {} in the place of the class name",
    )
    languages: list[str] | None = Field(
        None,
        min_length=1,
        description="keys of the JSON whose texts by-language measures apart, one a language; "
        "null: captions, and each list of texts under the code of a language, such as zh",
    )
    all_pairs: NonNegativeInt = Field(
        4_000_000,
        description="most pairs (images × texts) that a learned score is computed for; with more, "
        "it scores a shortlist",
    )
    shortlist: PositiveInt = Field(
        100, description="nearest items of a query that a learned score puts in order"
    )
    batch_size: PositiveInt = Field(256, description="samples encoded at a time, on a rank")
    tile: PositiveInt = Field(2048, description="rows and columns of scores computed at a time")

    @field_validator("templates")
    @classmethod
    def _with_place(cls, templates: list[str]) -> list[str]:
        for template in templates:
            if "{}" not in template:
                raise ValueError("{} is missing, the place of a class's name")
        return templates
