"""Approximate search: rows that are likely to be nearest, to be scored exactly."""

import math
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor

from xmodal.errors import UserError
from xmodal.search.inverted_lists import map_lists

DEPTH = 100  # hits are of a multiple, so that pages of one search agree
FEW = 20_000  # rows that a filter leaves, up to which all are compared
SPARE = 2  # candidates a hit
SPARE_OF_PQ = 20  # whose codes are coarse


def name_of_effort(factory: str) -> str:
    """Return faiss' name of the effort of an index."""
    return "efSearch" if factory.startswith("HNSW") else "nprobe"


class Approximation:
    """The faiss index of a side, whose lists are memory-mapped.

    `factory` is faiss' name of it. `effort` is how many lists are probed, or the length of a
    graph's queue.
    """

    def __init__(self, path: Path, factory: str, effort: int, embeddings_per_item: int) -> None:
        self.path, self.effort, self.each = path, effort, embeddings_per_item
        self.is_graph = factory.startswith("HNSW")
        self.spare = SPARE_OF_PQ if ",PQ" in factory else SPARE

    @cached_property
    def index(self) -> Any:
        """The index as faiss reads it; raises `UserError` where it is damaged."""
        flags = faiss.IO_FLAG_SKIP_IVF_DATA | faiss.IO_FLAG_READ_ONLY
        try:
            index = faiss.read_index(str(self.path), flags)
            if not self.is_graph:
                map_lists(index, self.path.with_suffix(".lists"))
            return index
        except (RuntimeError, MemoryError, AttributeError) as error:
            raise self._damaged(str(error).rpartition(": ")[2]) from None

    def check(self, vectors: int, dim: int) -> None:
        """Raise `UserError` unless the files are there and have so many vectors."""
        found = self.index.ntotal, self.index.d
        if found != (vectors, dim):
            raise self._damaged(f"{found[0]} vectors of {found[1]} numbers")

    def _damaged(self, reason: str) -> UserError:
        return UserError(f"{self.path} is damaged ({reason}); index the embeddings again")

    def candidates(self, query: Tensor, k: int, allowed: Tensor | None = None) -> Tensor:
        """Return rows, in order, among which the k nearest to a query are likely to be.

        The query is (dim,) or (K, dim) float32; of several vectors an item, those of any are
        returned. `allowed`, (rows,) bool, are the rows that may be found.
        """
        share, selector = 1.0, None
        if allowed is not None:
            count = int(allowed.sum())
            if count <= FEW:
                return allowed.nonzero()[:, 0]
            share, selector = count / len(allowed), self._selector(allowed)
        depth = math.ceil(k / DEPTH) * DEPTH
        effort = math.ceil(self.effort * (depth // DEPTH) / share)
        count = min(depth * self.spare * self.each, self.index.ntotal)
        vectors = query.reshape(-1, query.shape[-1]).numpy()
        _, ids = self.index.search(vectors, count, params=self._parameters(effort, count, selector))
        return torch.from_numpy(np.unique(ids[ids >= 0] // self.each))

    def _selector(self, allowed: Tensor) -> Any:
        bits = np.packbits(allowed.numpy().repeat(self.each), bitorder="little")
        return faiss.IDSelectorBitmap(bits)

    def _parameters(self, effort: int, count: int, selector: Any) -> Any:
        given = {} if selector is None else {"sel": selector}
        if self.is_graph:
            return faiss.SearchParametersHNSW(efSearch=max(effort, count), **given)
        return faiss.SearchParametersIVF(nprobe=min(effort, self.index.nlist), **given)
