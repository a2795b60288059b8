"""Common parts of the configurations of objectives."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, PositiveInt

from xmodal.components.component import Component
from xmodal.components.config import Config, Was

MatmulDtype = Literal["float32", "bfloat16"]


class ObjectiveConfig(Component):
    """A loss over the pairs of the global batch."""

    family: ClassVar[str] = "objective"
    takes_extra: ClassVar[bool] = False  # whether it is called with `extra` negatives too

    @property
    def in_words(self) -> str:
        """Its name in messages: its kind."""
        return str(self.kind)

    @property
    def extra_sides(self) -> Sequence[str]:
        """Sides of extra negatives (texts, images) that it has terms for."""
        return ("texts", "images") if self.takes_extra else ()

    @property
    def skips_alike(self) -> bool:
        """True if it takes ids with a limit above which texts are alike."""
        return False

    takes_widths: ClassVar[bool] = False  # whether it trains prefixes of embeddings (matryoshka)

    @classmethod
    def kinds_that(cls, able: str) -> str:
        """Return the kinds that have a mark such as `takes_extra`, in words."""
        return ", ".join(sorted(k for k, v in cls.kinds.items() if getattr(v, able, False)))

    def check_embedding(self, dim: int) -> None:
        """Raise `ValueError` where it cannot be of embeddings of `dim` dimensions."""

    def build_for(self, dim: int) -> Any:
        """Return an instance of its class, for embeddings of `dim` dimensions."""
        del dim
        return self.build()

    def build_for_widths(self, widths: Sequence[int]) -> Any:
        """Return an instance that computes several widths at once; only where `takes_widths`."""
        return self.build_for(widths[-1])


class TiledConfig(Config):
    """Keys of objectives that compute scores of all pairs of the global batch."""

    tile: int | None = Field(
        None,
        ge=1,
        le=16384,
        description="rows and columns of scores computed at a time; null: depends on the device",
    )


class ProxiesConfig(TiledConfig, ObjectiveConfig):
    """Keys of objectives that learn a proxy, a vector, of each class."""

    classes: PositiveInt = Field(
        description="number of classes, the different ids of data.positives (label: of labels; "
        "image: every image is a class of its own)"
    )
    takes_widths: ClassVar[bool] = True

    def build_for(self, dim: int) -> Any:
        """Return an instance of its class, with proxies of `dim` dimensions."""
        return self.build(width=dim)


class PairwiseConfig(TiledConfig):
    """Keys of those whose scores may be computed in reduced precision."""

    matmul_dtype: Annotated[MatmulDtype, Was("products")] = Field(
        "float32",
        description="precision of gathered embeddings and their products; bfloat16 is faster "
        "and rounds: gradients differ by a few percent (sums and positive scores stay in float32)",
    )


def check_choice(name: str, value: object, choices: Any) -> None:
    """Raise `ValueError` where an argument is none of the values of a `Literal`."""
    allowed = get_args(choices)
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
