"""Search of an index: what launch/search.py, its page and curation call.

searcher = Searcher.open("indices/mine", model=load_model)
hits = searcher.search(Query(text="a red dress"), k=20, where="label = 'dress'")
"""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from xmodal.data.storage import open_storage, split_url
from xmodal.errors import UserError
from xmodal.methods.method import Method
from xmodal.search.index_folder import IndexedSide, IndexFolder, Side
from xmodal.search.nearest_rows import nearest_rows
from xmodal.search.own_score import is_learned, own_similarity
from xmodal.search.query import Hit, Query
from xmodal.search.where import meeting


class SearchModel(Protocol):
    """Encodes queries as the indexed items were encoded: `xmodal.load` returns such."""

    method: Method
    device: torch.device

    def encode_images(self, images: Any) -> Tensor:
        """Return embeddings (n, dim) or (n, K, dim) of paths or encoded bytes."""

    def encode_texts(self, texts: Any) -> Tensor:
        """Return embeddings (n, dim) or (n, K, dim)."""

    def encode_queries(self, images: Any, modifications: Any) -> Tensor:
        """Return embeddings (n, dim) of images with their modifications."""


class Searcher:
    """Search of an index by text, image, both, or an indexed image.

    `model` returns the model that made the embeddings. It is called once, where a query must be
    encoded or the method scores with a network of its own.
    """

    def __init__(self, index: IndexFolder, model: Callable[[], SearchModel] | None = None) -> None:
        self.index, self.info = index, index.info
        self.load_model = model

    @classmethod
    def open(cls, index: str | Path, model: Callable[[], SearchModel] | None = None) -> "Searcher":
        """Open an index folder; raises `UserError` where it is missing or damaged."""
        return cls(IndexFolder.open(index), model)

    @cached_property
    def model(self) -> SearchModel:
        """The model, loaded when it is first needed."""
        if self.load_model is None:
            raise UserError("this query needs the model of the embeddings, and none was given")
        return self.load_model()

    @property
    def sides(self) -> dict[IndexedSide, Side]:
        """The sides that are indexed, by name."""
        return self.index.sides

    def search(
        self,
        query: Query,
        side: IndexedSide = "images",
        k: int = 20,
        start: int = 0,
        where: str | None = None,
    ) -> list[Hit]:
        """Return hits number `start` to `start + k` of a query, best first.

        Equal scores are in the order of their rows. An indexed image that is the query is not among
        its own hits. `where` is a condition over the metadata (`xmodal.search.where`). Raises
        `UserError` for a query, side or condition that cannot be.
        """
        if k < 1 or start < 0:
            raise UserError(f"k = {k} must be at least 1, and start = {start} at least 0")
        searched = self.index.side(side)
        allowed = self._allowed(query, searched, where)
        vector = self.encode(query)
        model = self.model if is_learned(self.info.model.method) else None
        similarity = own_similarity(model, query, side, searched.info.longest)
        scores, rows = nearest_rows(searched, vector, start + k, similarity, allowed)
        found = list(zip(rows.tolist(), scores.tolist(), strict=True))[start:]
        return [Hit.of(row, score, searched.record(row)) for row, score in found]

    def encode(self, query: Query) -> Tensor:
        """Return the embedding of a query, (dim,) or (K, dim) float32."""
        if query.like is not None:
            return self.index.side("images").vectors[self.row_of(query.like)].float()
        if not query.is_composed:
            encoded = (
                self.model.encode_texts([query.text])
                if query.is_text
                else self.model.encode_images([query.image])
            )
        elif self.model.method.contents.composed:
            encoded = self.model.encode_queries([query.image], [query.text])
        else:
            raise UserError(
                f"{self.info.model.method} composes no queries: search by the image or by the text"
            )
        return self._checked(encoded[0])

    def row_of(self, like: str | int) -> int:
        """Return the row of an image by its key, or SHARD/KEY; raises `UserError` for any other."""
        images = self.index.side("images")
        if isinstance(like, int):
            images.record(like)
            return like
        shard, _, key = like.rpartition("/")
        table = images.metadata
        found = pc.equal(table["key"], like)
        if shard:
            named = pc.and_(pc.equal(table["key"], key), pc.equal(table["shard"], shard))
            found = pc.or_(found, named)
        rows = pc.indices_nonzero(found).to_pylist()
        if not rows:
            raise UserError(f"no image of the index has the key {like}{_example(key, table)}")
        if len(rows) > 1:
            place = f"{table['shard'][rows[0]]}/{key}"
            raise UserError(
                f"{len(rows)} images have the key {like}; write SHARD/KEY, such as {place}"
            )
        return int(rows[0])

    def record(self, row: int, side: IndexedSide = "images") -> dict[str, Any]:
        """Return the metadata of a row; raises `UserError` where there is no such row."""
        return self.index.side(side).record(row)

    def picture(self, row: int) -> bytes:
        """Return the encoded image of a row of images, read from its shard.

        Raises `UserError` where it cannot be read. Nothing but the shards of the index is read.
        """
        record = self.record(row)
        url = self._shards.get(record["shard"])
        if url is None or record["offset"] is None:
            raise UserError(f"row {row} has no image in the shards of the index")
        start = record["offset"]
        try:
            return self._storage.read(url, start, start + record["size"])
        except FileNotFoundError:
            raise UserError(f"{url} is missing; the index shows images of its shards") from None

    @cached_property
    def _storage(self) -> Any:
        return open_storage(self.info.data.url)

    @cached_property
    def _shards(self) -> dict[str, str]:
        """URL of each shard by its name."""
        return {split_url(url)[1]: url for url in self.info.data.shards}

    def _allowed(self, query: Query, side: Side, where: str | None) -> Tensor | None:
        """Return which rows may be found, (rows,) bool; None: all."""
        allowed = None if where is None else torch.from_numpy(meeting(where, side.metadata))
        if query.like is not None and side.name == "images":
            allowed = torch.ones(len(side), dtype=torch.bool) if allowed is None else allowed
            allowed[self.row_of(query.like)] = False
        return allowed

    def _checked(self, vector: Tensor) -> Tensor:
        each, dim = self.info.embeddings_per_item, self.info.dim
        if tuple(vector.shape) != ((dim,) if each == 1 else (each, dim)):
            raise UserError(
                f"the model embeds into {tuple(vector.shape)}, and the index has {each} × {dim}; "
                "name the model of the embeddings"
            )
        return vector.float()


def _example(key: str, table: pa.Table) -> str:
    """Return which key there is, for a message: one that ends as a key that there is not."""
    if not len(table):
        return ""
    ending = pc.index(pc.ends_with(table["key"], key), True).as_py()
    return f"; keys are such as {table['key'][max(ending, 0)]}"
