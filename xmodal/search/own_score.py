"""The score that a method itself orders items by, for a search."""

from typing import Protocol

import torch
from torch import Tensor

from xmodal.evaluation.embedding import in_evaluation
from xmodal.evaluation.metrics.similarity import Similarity
from xmodal.methods.config import MethodConfig
from xmodal.methods.method import Method
from xmodal.methods.scores import DotProduct, Score, dot_product, greatest_norm
from xmodal.search.index_folder import IndexedSide
from xmodal.search.query import Query

SHORTLIST = 1000  # hits that a learned score puts in order; there are no more of it


class KnownLengths(DotProduct):
    """Dot products of queries with indexed vectors, the longest of which is known.

    So the error of fast scores is known without reading all vectors.
    """

    def __init__(self, longest: float) -> None:
        super().__init__()
        self.known = torch.tensor(longest, dtype=torch.float64)

    def longest(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Return at least the lengths of the longest row and column, (), float64 each."""
        del columns
        return greatest_norm(rows), self.known

    def swapped(self) -> Score:
        """Return the score of columns with rows: which are longest is not known of them."""
        return dot_product


class Scorer(Protocol):
    """A model, as far as it scores."""

    method: Method
    device: torch.device


def is_learned(kind: str) -> bool:
    """Return whether methods of a kind score with a network of their own."""
    known = MethodConfig.is_known(kind)
    return known and bool(getattr(MethodConfig.kinds[kind].built_class(), "learned_score", False))


def own_similarity(
    model: Scorer | None, query: Query, side: IndexedSide, longest: float
) -> Similarity:
    """Return the similarity of a query (1, …) and the items of a side, by which it finds them.

    Without a model it is the dot product; of sets of K vectors, the greatest. A learned score is
    one of images and texts: images among images, or texts among texts, are found by the cheap
    score that chooses its shortlist. `longest` is the length of the side's longest vector.
    """
    method = model.method if model else None
    cheap = method.shortlist if method else None
    score = KnownLengths(longest) if cheap is None or cheap is dot_product else cheap
    if model is None or cheap is None or query.is_text == (side == "texts"):
        return Similarity(score)
    learned, device = model.method, model.device

    def rescore(queries: Tensor, items: Tensor) -> Tensor:
        images, texts = (items, queries) if query.is_text else (queries, items)
        with in_evaluation(learned):
            return learned.score_pairs(images.float().to(device), texts.float().to(device)).cpu()

    return Similarity(score, rescore, SHORTLIST)
