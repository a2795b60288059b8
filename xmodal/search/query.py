"""Queries and hits of a search."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xmodal.errors import UserError


@dataclass(frozen=True)
class Query:
    """A text, an image, an image with a modification as its text, or an indexed image.

    Attributes:
        text: a description, or beside an image its modification.
        image: encoded bytes, or the path of a file.
        like: key of an indexed image, `SHARD/KEY` where several have the key, or its row.
    """

    text: str | None = None
    image: bytes | str | Path | None = None
    like: str | int | None = None

    def __post_init__(self) -> None:
        if self.like is not None and (self.text is not None or self.image is not None):
            raise UserError("a query has an indexed image, or a text and an image, not both")
        if self.like is None and self.image is None and not (self.text or "").strip():
            raise UserError("the query is empty; give a text, an image, or the key of one")

    @property
    def is_composed(self) -> bool:
        """True for an image with a modification."""
        return self.image is not None and self.text is not None

    @property
    def is_text(self) -> bool:
        """True for a text alone."""
        return self.like is None and self.image is None


@dataclass(frozen=True)
class Hit:
    """An item that was found. Of a text, all but `caption` is of its image."""

    row: int  # of the side that was searched
    score: float  # the model's own
    image: int  # row of the image
    key: str
    caption: str | None
    shard: str
    labels: list[str]
    url: str | None
    width: int | None
    height: int | None

    @classmethod
    def of(cls, row: int, score: float, record: dict[str, Any]) -> "Hit":
        """Return the hit of a row, from its metadata."""
        names = ("key", "caption", "shard", "url", "width", "height")
        known: dict[str, Any] = {name: record.get(name) for name in names}
        image = record.get("row", row)
        return cls(row, score, image, labels=record.get("labels") or [], **known)

    def record(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)
