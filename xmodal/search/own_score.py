"""The score that a method itself orders items by, for a search."""

from typing import Protocol

import torch
from torch import Tensor

from xmodal.evaluation.embedding import in_evaluation
from xmodal.evaluation.metrics.similarity import Similarity
from xmodal.methods.config import MethodConfig
from xmodal.methods.method import Method
from xmodal.methods.scores import dot_product
from xmodal.search.index_folder import IndexedSide
from xmodal.search.query import Query

SHORTLIST = 1000  # hits that a learned score puts in order; there are no more of it


class Scorer(Protocol):
    """A model, as far as it scores."""

    method: Method
    device: torch.device


def is_learned(kind: str) -> bool:
    """Return whether methods of a kind score with a network of their own."""
    known = MethodConfig.is_known(kind)
    return known and bool(getattr(MethodConfig.kinds[kind].built_class(), "learned_score", False))


def own_similarity(model: Scorer | None, query: Query, side: IndexedSide) -> Similarity:
    """Return the similarity of a query (1, …) and the items of a side.

    Without a model it is the dot product; of sets of K vectors, the greatest. A learned score is
    one of images and texts: images among images, or texts among texts, are found by the cheap
    score that chooses its shortlist.
    """
    cheap = model.method.shortlist if model else None
    if model is None or cheap is None:
        return Similarity(dot_product)
    if query.is_text == (side == "texts"):
        return Similarity(cheap)
    method, device = model.method, model.device

    def rescore(images: Tensor, texts: Tensor) -> Tensor:
        with in_evaluation(method):
            return method.score_pairs(images.float().to(device), texts.float().to(device)).cpu()

    learned = Similarity(cheap, rescore, SHORTLIST)
    return learned.swapped() if query.is_text else learned
