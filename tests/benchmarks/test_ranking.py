"""What ranking is measured on."""

import pytest
import torch

from benchmarks.ranking import embeddings
from xmodal.evaluation.metrics.ranking import count_ranks


@pytest.mark.parametrize(
    ("name", "median"), [("trained", 0), ("untrained", None), ("duplicates", None)]
)
def test_embeddings_are_what_they_are_called(name: str, median: int | None) -> None:
    images, texts, pairs = embeddings(name, 100, 512)
    assert images.shape == (100, 512)
    assert texts.shape == (500, 512)
    ranks = count_ranks(images, texts, pairs)
    assert median is None or ranks.text_to_image.median() == median
    assert len(texts.unique(dim=0)) == (50 if name == "duplicates" else 500)
    assert torch.equal(pairs[:, 0], torch.arange(500) // 5)
