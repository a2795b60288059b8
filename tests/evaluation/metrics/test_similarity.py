"""Learned scores: of all pairs where they are few, else of a shortlist, against a full sort."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.processes import on_ranks
from xmodal.evaluation.metrics.average_precision import precisions
from xmodal.evaluation.metrics.ranking import Ranks, count_ranks
from xmodal.evaluation.metrics.similarity import (
    Similarity,
    first_equal,
    nearest,
    rank_all,
    score_chosen,
)
from xmodal.methods.scores import dot_product


def learned(images: Tensor, texts: Tensor) -> Tensor:
    """A score that orders otherwise than the dot product, and knows image from text."""
    return (images * texts.roll(1, -1)).sum(-1) - images[..., 0]


def of_all(images: Tensor, texts: Tensor) -> Tensor:
    return learned(images[:, None], texts)


def similarity(shortlist: int) -> Similarity:
    return Similarity(dot_product, learned, shortlist)


def sets(num_images: int, num_texts: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings of small whole numbers, and pairs that leave no item out."""
    generator = torch.Generator().manual_seed(seed)
    images, texts = (
        torch.randint(-2, 3, (n, 3), generator=generator).float() for n in (num_images, num_texts)
    )
    most = max(num_images, num_texts)
    pairs = torch.stack([torch.arange(most) % num_images, torch.arange(most) % num_texts], 1)
    extra = torch.randint(most, (most // 2, 2), generator=generator)
    extra %= torch.tensor([num_images, num_texts])
    return images, texts, torch.cat([pairs, extra])


def order(cheap: np.ndarray, dear: np.ndarray, shortlist: int) -> list[tuple[int, float, float]]:
    """Items best first: those of the shortlist by the dear score, then by the cheap one.

    Each with what it is sorted by: whether it is in the shortlist, and its score.
    """
    by_cheap = np.argsort(-cheap, kind="stable")
    head = [(item, 1.0, dear[item]) for item in by_cheap[:shortlist]]
    rest = [(item, 0.0, cheap[item]) for item in by_cheap[shortlist:]]
    return sorted(head, key=lambda one: -one[2]) + rest


def naive_rank(ordered: list[tuple[int, float, float]], true: set[int], cheap: np.ndarray) -> int:
    """How many wrong items come before the best true one, or have its score."""
    item, within, score = next(
        max((o for o in ordered if o[0] in true and o[1] == part), key=lambda o: o[2])
        for part in (1.0, 0.0)
        if any(o[0] in true and o[1] == part for o in ordered)
    )
    if within:
        return sum(o[0] not in true and o[1] == 1.0 and o[2] >= score for o in ordered)
    return sum(other not in true and value >= cheap[item] for other, value in enumerate(cheap))


@given(
    num_images=st.integers(1, 60),
    num_texts=st.integers(1, 120),
    shortlist=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
)
def test_ranks_are_those_of_the_shortlist_in_its_new_order(
    num_images: int, num_texts: int, shortlist: int, seed: int
) -> None:
    images, texts, pairs = sets(num_images, num_texts, seed)
    ranks = rank_all(images, texts, pairs, similarity(shortlist), 2048)
    cheap, dear = (images @ texts.T).numpy(), of_all(images, texts).numpy()
    true = {(image, text) for image, text in pairs.tolist()}
    for image in range(num_images):
        ordered = order(cheap[image], dear[image], shortlist)
        right = {text for text in range(num_texts) if (image, text) in true}
        assert ranks.image_to_text[image] == naive_rank(ordered, right, cheap[image])
    for text in range(num_texts):
        ordered = order(cheap[:, text], dear[:, text], shortlist)
        right = {image for image in range(num_images) if (image, text) in true}
        assert ranks.text_to_image[text] == naive_rank(ordered, right, cheap[:, text])


def by_tables(cheap: Tensor, dear: Tensor, shortlist: int) -> Similarity:
    """Scores that are looked up; images and texts are their numbers."""
    return Similarity(
        lambda images, texts: cheap[images][:, texts],
        lambda images, texts: dear[images, texts],
        shortlist,
    )


@pytest.mark.parametrize(("shortlist", "rank"), [(1, 2), (2, 2), (3, 0), (4, 1)])
def test_a_true_item_beyond_the_shortlist_keeps_its_rank(shortlist: int, rank: int) -> None:
    cheap = torch.tensor([[4.0, 3.0, 2.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    dear = torch.tensor([[0.0, 1.0, 2.0, 3.0], [1.0, 1.0, 1.0, 1.0]])
    pairs = torch.tensor([[0, 2], [1, 0], [1, 1], [1, 3]])
    found = by_tables(cheap, dear, shortlist)
    ranks = rank_all(torch.arange(2), torch.arange(4), pairs, found, 2048)
    assert ranks.image_to_text[0] == rank


def test_the_whole_gallery_as_shortlist_is_the_learned_score_of_all_pairs() -> None:
    images, texts, pairs = sets(30, 70, seed=1)
    whole = rank_all(images, texts, pairs, similarity(1000), 2048)
    all_pairs = count_ranks(images, texts, pairs, of_all)
    assert torch.equal(whole.image_to_text, all_pairs.image_to_text)
    assert torch.equal(whole.text_to_image, all_pairs.text_to_image)


@given(shortlist=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_average_precision_is_of_the_shortlist_and_then_the_rest(shortlist: int, seed: int) -> None:
    images, texts, _ = sets(20, 35, seed)
    # No ties: those are the matter of the tests of average precision.
    images = images + torch.rand(20, 3, generator=torch.Generator().manual_seed(seed))
    texts = texts + torch.rand(35, 3, generator=torch.Generator().manual_seed(seed + 1))
    relevant = torch.rand(20, 35, generator=torch.Generator().manual_seed(seed)) < 0.3
    found = precisions(images, texts, similarity(shortlist), lambda rows: relevant[rows], 2048)
    cheap, dear = (images @ texts.T).numpy(), of_all(images, texts).numpy()
    for image in range(20):
        items = [item for item, _, _ in order(cheap[image], dear[image], shortlist)]
        right = relevant[image, items]
        precision = right.cumsum(0) / torch.arange(1, 36)
        expected = float(precision[right].sum()) / max(int(right.sum()), 1)
        assert found.average[image].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("shortlist", [3, 20])
def test_what_is_nearest_is_what_the_learned_score_puts_first(shortlist: int) -> None:
    images, texts, _ = sets(20, 90, seed=3)
    scores, items = nearest(images, texts, 5, similarity(shortlist), 2048)
    assert items.shape == (20, min(shortlist, 5))
    cheap, dear = (images @ texts.T).numpy(), of_all(images, texts).numpy()
    for image in range(20):
        expected = [item for item, _, _ in order(cheap[image], dear[image], shortlist)][:5]
        assert items[image].tolist() == expected[: items.shape[1]]
        assert scores[image].tolist() == dear[image, items[image].numpy()].tolist()
    plain = nearest(images, texts, 5, Similarity(dot_product), 2048)
    assert torch.equal(plain[0], (images @ texts.T).sort(dim=1, descending=True).values[:, :5])


def test_of_chosen_pairs_equal_ones_are_scored_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xmodal.evaluation.metrics.similarity.PAIRS", 1000)
    scored: list[tuple[Tensor, Tensor]] = []

    def watched(images: Tensor, texts: Tensor) -> Tensor:
        assert len(images) <= 1000
        scored.append((images, texts))
        return learned(images, texts)

    images, texts, _ = sets(400, 300, seed=4)
    images[images == 0] = -0.0  # as good as 0
    images[::7] += 0.0
    chosen = torch.randint(300, (400, 90), generator=torch.Generator().manual_seed(0))
    scores = score_chosen(watched, images, texts, chosen)
    assert torch.equal(scores, of_all(images, texts).gather(1, chosen))
    seen = torch.cat([torch.cat(pair, 1) for pair in scored])
    assert len(seen) == len(seen.unique(dim=0)) <= 5**6


def test_equal_items_are_known_by_the_first_of_them() -> None:
    items = torch.tensor([[0.0, 1.0], [2.0, 1.0], [-0.0, 1.0], [2.0, 1.0], [1.0, 0.0]])
    assert first_equal(items).tolist() == [0, 1, 0, 1, 4]
    assert first_equal(items[:, 1]).tolist() == [0, 0, 0, 0, 4]
    assert first_equal(items[:, :, None].expand(-1, -1, 3)).tolist() == [0, 1, 0, 1, 4]
    assert first_equal(items[:0]).tolist() == []


def test_equal_pairs_get_equal_scores_whatever_rounding_does() -> None:
    weights = torch.randn(300, 300)

    def bilinear(images: Tensor, texts: Tensor) -> Tensor:
        scores = ((images @ weights) * texts).sum(1)
        return scores * (1 + 1e-6 * torch.rand(len(scores)))  # as no kernel rounds worse

    images = torch.randn(1, 300).expand(211, 300)
    texts = torch.randn(1, 300).expand(130, 300)
    found = Similarity(lambda a, b: torch.zeros(len(a), len(b)), bilinear, 101)
    pairs = torch.stack([torch.arange(211), torch.arange(211) % 130], 1)
    ranks = rank_all(images, texts, pairs, found, 2048)
    # A true text among the first 101 is as good as the 100 others there; else it is behind all.
    within = pairs[:, 1] < 101
    assert torch.equal(ranks.image_to_text, torch.where(within, 100, 129))


def of_a_rank(seed: int) -> tuple[Ranks, Tensor, str]:
    """Ranks and average precisions, and the error where one learned score is NaN."""
    images, texts, pairs = sets(61, 95, seed)
    ranks = rank_all(images, texts, pairs, similarity(5), 2048)
    relevant = torch.eye(61, 95) > 0
    found = precisions(images, texts, similarity(5), lambda rows: relevant[rows], 48)
    dear = torch.zeros(61, 95)
    dear[60, 3] = torch.nan
    broken = by_tables(torch.zeros(61, 95), dear, 5)
    numbers = torch.arange(61), torch.arange(95)
    with pytest.raises(ValueError, match="a score is NaN of query 60"):
        precisions(*numbers, broken, lambda rows: relevant[rows], 48)
    with pytest.raises(ValueError, match="NaN") as error:
        rank_all(*numbers, pairs, broken, 2048)
    return ranks, found.average, str(error.value)


def test_ranks_share_the_queries_and_get_the_same() -> None:
    alone = of_a_rank(6)
    assert alone[2] == "a score is NaN in the shortlist of query 60"
    for ranks, found, error in on_ranks(2, of_a_rank, 6):
        assert torch.equal(ranks.image_to_text, alone[0].image_to_text)
        assert torch.equal(ranks.text_to_image, alone[0].text_to_image)
        assert torch.equal(found, alone[1])
        assert error == alone[2]
