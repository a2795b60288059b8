from fractions import Fraction
from math import comb

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xmodal.evaluation.metrics.ranking import Ranks, count_ranks
from xmodal.evaluation.metrics.recall import chance_recall, recall_metrics


def test_a_case_by_hand() -> None:
    # 4 images with 2 captions each.
    pairs = torch.tensor([[image, 2 * image + i] for image in range(4) for i in range(2)])
    ranks = Ranks(
        image_to_text=torch.tensor([0, 0, 4, 5]),
        text_to_image=torch.tensor([0, 0, 0, 1, 1, 2, 3, 3]),
    )
    metrics = recall_metrics(ranks, pairs, "tiny")
    assert metrics == {
        "tiny/image_to_text/recall@1": 50.0,
        "tiny/image_to_text/recall@1_chance": pytest.approx(100 * 2 / 8),
        "tiny/image_to_text/recall@5": 75.0,
        # Both captions lie among the last 3 of 8 places: (3 · 2) / (8 · 7).
        "tiny/image_to_text/recall@5_chance": pytest.approx(100 * (1 - 6 / 56)),
        "tiny/image_to_text/recall@10": 100.0,
        "tiny/image_to_text/recall@10_chance": 100.0,
        "tiny/image_to_text/median_rank": 3.0,  # between ranks 1 and 5
        "tiny/text_to_image/recall@1": 37.5,
        "tiny/text_to_image/recall@1_chance": pytest.approx(25.0),
        "tiny/text_to_image/recall@5": 100.0,
        "tiny/text_to_image/recall@5_chance": 100.0,
        "tiny/text_to_image/recall@10": 100.0,
        "tiny/text_to_image/recall@10_chance": 100.0,
        "tiny/text_to_image/median_rank": 2.0,
        "tiny/rsum": 462.5,
        "tiny/rsum_chance": pytest.approx(25 + 100 * 50 / 56 + 100 + 25 + 200),
        "tiny/num_images": 4.0,
        "tiny/num_texts": 8.0,
    }


@pytest.mark.parametrize(
    ("ranks", "median"), [([0], 1), ([0, 1], 1), ([0, 2], 2), ([9, 0, 4], 5), ([3, 0, 5, 7], 5)]
)
def test_median_rank_counts_from_one_and_rounds_down(ranks: list[int], median: int) -> None:
    pairs = torch.arange(len(ranks))[:, None].expand(-1, 2)
    metrics = recall_metrics(Ranks(torch.tensor(ranks), torch.tensor(ranks)), pairs, "p")
    assert metrics["p/image_to_text/median_rank"] == median


def test_a_pair_named_twice_is_one_true_item() -> None:
    pairs = torch.tensor([[0, 0], [1, 1]])
    ranks = Ranks(torch.tensor([0, 1]), torch.tensor([0, 1]))
    assert recall_metrics(ranks, pairs, "p") == recall_metrics(ranks, pairs.repeat(3, 1), "p")


def test_chance_is_a_mean_over_queries_of_unequal_difficulty() -> None:
    # Image 0 has 9 of 10 texts, image 1 has one.
    pairs = torch.tensor([[0, text] for text in range(9)] + [[1, 9]])
    ranks = Ranks(torch.zeros(2).long(), torch.zeros(10).long())
    metrics = recall_metrics(ranks, pairs, "p")
    assert metrics["p/image_to_text/recall@1_chance"] == pytest.approx(100 * (0.9 + 0.1) / 2)
    assert metrics["p/image_to_text/recall@5_chance"] == pytest.approx(100 * (1 + 0.5) / 2)
    assert metrics["p/text_to_image/recall@1_chance"] == pytest.approx(50)


@given(st.data(), st.integers(1, 3000), st.integers(1, 12))
def test_chance_is_the_hypergeometric_formula(data: st.DataObject, size: int, k: int) -> None:
    num_relevant = data.draw(st.lists(st.integers(1, size), min_size=1, max_size=5))
    exact = [
        1 - Fraction(comb(size - true, k), comb(size, k)) if k <= size else 1
        for true in num_relevant
    ]
    chance = chance_recall(torch.tensor(num_relevant), size, k)
    assert chance.tolist() == pytest.approx([float(value) for value in exact], rel=1e-12, abs=0)


def test_chance_in_a_gallery_of_a_billion_keeps_its_digits() -> None:
    assert chance_recall(torch.tensor([1]), 10**9, 10).item() == pytest.approx(
        1e-8, rel=1e-13, abs=0
    )


def test_random_scores_reach_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(400, 6, generator=generator)
    texts = torch.randn(2000, 6, generator=generator)
    text = torch.arange(2000)
    pairs = torch.stack([text // 5, text], 1)
    metrics = recall_metrics(count_ranks(images, texts, pairs), pairs, "p")
    for direction in ("image_to_text", "text_to_image"):
        chance = metrics[f"p/{direction}/recall@10_chance"]
        assert metrics[f"p/{direction}/recall@10"] == pytest.approx(chance, rel=0.5)


def test_chance_in_galleries_of_other_sizes_is_that_of_each() -> None:
    sizes, true = [1, 3, 7, 50], [1, 2, 0, 9]
    for k in (1, 4, 60):
        each = [
            float(chance_recall(torch.tensor([n]), size, k))
            for n, size in zip(true, sizes, strict=True)
        ]
        both = chance_recall(torch.tensor(true), torch.tensor(sizes), k)
        assert both.tolist() == pytest.approx(each)
