"""The similarities by which a method is measured."""

from types import SimpleNamespace
from typing import Any

import torch

from tests.evaluation.metrics.test_similarity import learned, of_all
from xmodal.evaluation.config import EvaluationConfig
from xmodal.evaluation.context import EvaluationContext
from xmodal.evaluation.metrics.similarity import Similarity
from xmodal.methods.scores import dot_product


def method(shortlist: bool) -> SimpleNamespace:
    return SimpleNamespace(
        score=of_all, shortlist=dot_product if shortlist else None, score_pairs=learned
    )


def similarities(measured: SimpleNamespace, pairs: int) -> dict[str, Similarity]:
    config = EvaluationConfig(all_pairs=100, shortlist=7)
    context: Any = EvaluationContext(measured, None, None, None, config, torch.device("cpu"))
    return context.similarities(torch.zeros(pairs, 1), torch.zeros(1, 1))


def test_all_pairs_are_scored_where_they_are_few() -> None:
    assert similarities(method(False), 1000) == {"": Similarity(of_all)}
    cheap = Similarity(dot_product)
    few = similarities(method(True), 100)
    assert few == {"": Similarity(of_all), "-by-distance": cheap}
    many = similarities(method(True), 101)
    assert many == {"": Similarity(dot_product, learned, 7), "-by-distance": cheap}
