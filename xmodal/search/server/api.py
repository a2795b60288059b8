"""JSON API of an index: what it holds, searches, samples and pictures, as plain values."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from itertools import islice
from threading import Lock
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow.compute as pc
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from xmodal.data.decode import BadSample, open_image
from xmodal.errors import UserError
from xmodal.search.query import Hit, Query
from xmodal.search.searcher import Searcher
from xmodal.search.server.pictures import for_browser
from xmodal.search.where import columns_of, meeting

MAX_UPLOAD_BYTES = 20 * 2**20
MAX_UPLOAD_PIXELS = 50_000_000
MAX_HITS = 1000  # of a search, on all its pages together: a learned score orders no more
MAX_TEXT = 2000  # characters


_MISTAKES = {
    "string_too_long": "has at most {max_length:,} characters",
    "greater_than_equal": "is at least {ge}",
    "less_than_equal": "is at most {le:,}",
    "literal_error": "is {expected}",
}


def _row(given: object) -> object:
    """Return the digits of a row; raises `ValueError` for those of a key, which begin with 0."""
    if isinstance(given, str) and not re.fullmatch("0|[1-9][0-9]*", given):
        raise ValueError(given)
    return given


class SearchParameters(BaseModel, extra="forbid", frozen=True):
    """Parameters of a search. Without a query, rows are listed in the order of the index."""

    text: str = Field("", max_length=MAX_TEXT, description="a text to search by")
    like: Annotated[int | None, BeforeValidator(_row)] = Field(
        None, ge=0, description="row of an indexed image to search by"
    )
    modification: str = Field("", max_length=MAX_TEXT, description="change to the image, in words")
    where: str = Field("", max_length=MAX_TEXT, description="condition on the metadata, in SQL")
    side: Literal["images", "texts"] = Field("images", description="what is searched")
    k: int = Field(20, ge=1, le=100, description="number of hits")
    start: int = Field(0, ge=0, description="number of better hits to skip")

    @classmethod
    def of(cls, given: Mapping[str, str]) -> "SearchParameters":
        """Return what is given as parameters; raises `UserError` for the first mistake."""
        try:
            found = cls.model_validate(dict(given))
            if found.start + found.k > MAX_HITS:
                raise UserError(f"start + k is at most {MAX_HITS:,}")
            return found
        except ValidationError as error:
            first = error.errors()[0]
        name, kind = str(first["loc"][0]), first["type"]
        if kind == "extra_forbidden":
            known = ", ".join(cls.model_fields)
            raise UserError(f"unknown parameter {name[:80]}; there are: {known}")
        if name == "like":
            raise UserError("like is the row of an image; where=key = 'KEY' lists that of a key")
        line = _MISTAKES.get(kind, "is a whole number").format(**first.get("ctx", {}))
        raise UserError(f"{name} {line}")


class Api:
    """Answers about an index. Safe in threads: one query at a time is encoded and scored."""

    def __init__(self, searcher: Searcher) -> None:
        self.searcher, self._lock = searcher, Lock()

    @cached_property
    def version(self) -> str:
        """Name of the index' contents: pictures by it can be cached."""
        return hashlib.sha256(self.searcher.info.model_dump_json().encode()).hexdigest()[:12]

    def info(self) -> dict[str, Any]:
        """Return what is indexed and which queries there are."""
        info, contents = self.searcher.info, self.searcher.model.method.contents
        sides = self.searcher.sides
        columns = {name: side.metadata.schema for name, side in sides.items()}
        return {
            "data": info.data.url,
            "model": info.model.source,
            "method": info.model.method,
            "kind": info.kind,
            "sides": {name: len(side) for name, side in sides.items()},
            "columns": {name: columns_of(schema) for name, schema in columns.items()},
            "texts": not contents.composed and contents.views == 1,
            "modifications": contents.composed,
            "max_upload_bytes": MAX_UPLOAD_BYTES,
            "version": self.version,
        }

    def search(self, parameters: SearchParameters, image: bytes | None = None) -> dict[str, Any]:
        """Return hits of a query, best first, and whether there are more.

        Raises `UserError` for a query or a condition that cannot be.
        """
        start, size = parameters.start, parameters.k
        query = self._query(parameters, image)
        with self._lock:
            hits = self._hits(query, parameters, size + 1)
        found = [hit.record() for hit in hits[:size]]
        if query is None:
            found = [one | {"score": None} for one in found]
        return {"hits": found, "more": len(hits) > size and start + size < MAX_HITS}

    def sample(self, row: int) -> dict[str, Any]:
        """Return the metadata of an image and all its captions; `UserError` without such a row."""
        record = self.searcher.record(row)
        texts = self.searcher.sides.get("texts")
        captions = [record["caption"]] if record["caption"] is not None else []
        if texts is not None:
            found = texts.metadata.filter(pc.equal(texts.metadata["row"], row))["caption"]
            captions = found.to_pylist() or captions
        return record | {"row": row, "captions": captions}

    def picture(self, row: int) -> tuple[bytes, str]:
        """Return the encoded image of a row and its media type.

        Raises `UserError` where there is none.
        """
        try:
            return for_browser(self.searcher.picture(row))
        except BadSample as cause:
            raise UserError(f"row {row}: {cause}") from None

    def _query(self, parameters: SearchParameters, image: bytes | None) -> Query | None:
        """Return the query; None for a list of all rows."""
        text, like, modification = parameters.text, parameters.like, parameters.modification
        if sum([bool(text.strip()), like is not None, image is not None]) > 1:
            raise UserError("a query has a text, an image or an indexed image, not several of them")
        if image is not None:
            _check_upload(image)
        if modification.strip():
            if like is None and image is None:
                raise UserError("a modification needs the image that it changes")
            source = image if image is not None else self.searcher.picture(like or 0)
            return Query(image=source, text=modification)
        if image is not None or like is not None:
            return Query(image=image, like=like)
        return Query(text=text) if text.strip() else None

    def _hits(self, query: Query | None, parameters: SearchParameters, k: int) -> list[Hit]:
        side, where, start = parameters.side, parameters.where.strip() or None, parameters.start
        if query is not None:
            return self.searcher.search(query, side=side, k=k, start=start, where=where)
        if side not in self.searcher.sides:
            raise UserError(f"the index has no {side}")
        searched = self.searcher.sides[side]
        rows: Iterable[int] = range(len(searched))
        if where is not None:
            rows = np.flatnonzero(meeting(where, searched.metadata)).tolist()
        return [Hit.of(row, 0.0, searched.record(row)) for row in islice(rows, start, start + k)]


def _check_upload(image: bytes) -> None:
    """Raise `UserError` unless the bytes are an image of bounded size."""
    if not image:
        raise UserError("the body is empty; send an image in it")
    try:
        open_image(image, max_pixels=MAX_UPLOAD_PIXELS)
    except BadSample as cause:
        raise UserError(f"the image cannot be used: {cause}") from None
