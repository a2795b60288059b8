"""Choice among captions and groups of two against a walk through all of them."""

from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from xmodal.evaluation.metrics.contrasts import (
    GROUP_CHANCE,
    choice_metrics,
    group_metrics,
    group_scores,
    judge,
    score_pairs,
)
from xmodal.methods.scores import Score, dot_product

# Few values, so that many scores are equal.
SCORES = st.lists(
    st.tuples(
        st.lists(st.integers(0, 3), min_size=2, max_size=6), st.sampled_from(["a", "b", None])
    ),
    min_size=1,
    max_size=12,
)


@given(SCORES)
def test_a_caption_is_chosen_where_it_scores_above_every_false_one(
    drawn: list[tuple[list[int], str | None]],
) -> None:
    said, categories = zip(*drawn, strict=True)
    flat = torch.tensor([float(score) for scores in said for score in scores], dtype=torch.float64)
    judged = judge(flat, [len(scores) for scores in said])
    right = [all(scores[0] > other for other in scores[1:]) for scores in said]
    assert judged.correct.tolist() == right
    metrics = choice_metrics(judged, categories, "p")
    of_each = {}
    for name in {one for one in categories if one}:
        own = [row for row, one in enumerate(categories) if one == name]
        of_each[name] = 100 * sum(right[row] for row in own) / len(own)
        assert metrics[f"p/{name}/accuracy"] == pytest.approx(of_each[name])
        assert metrics[f"p/{name}/num_captions"] == len(own)
    accuracy = 100 * sum(right) / len(right)
    assert metrics["p/accuracy"] == pytest.approx(accuracy)
    mean = sum(of_each.values()) / len(of_each) if of_each else accuracy
    assert metrics["p/category_mean"] == pytest.approx(mean)
    chance = 100 * sum(1 / len(scores) for scores in said) / len(said)
    assert metrics["p/accuracy_chance"] == pytest.approx(chance)


def test_ties_are_wrong() -> None:
    judged = judge(torch.ones(2, dtype=torch.float64), [2])
    assert judged.correct.tolist() == [False]
    both = judge(torch.ones(4, dtype=torch.float64), [2, 2])
    found = group_scores(both, torch.tensor([[0, 1]]))
    assert {name: values.tolist() for name, values in found.items()} == {
        "text": [False],
        "image": [False],
        "group": [False],
    }


@given(st.lists(st.integers(0, 3), min_size=4, max_size=4))
def test_scores_of_a_group_are_those_of_the_paper(drawn: list[int]) -> None:
    s00, s10, s11, s01 = drawn  # of caption and image, as two samples have them
    judged = judge(torch.tensor(drawn, dtype=torch.float64), [2, 2])
    found = group_scores(judged, torch.tensor([[0, 1]]))
    text = s00 > s10 and s11 > s01
    image = s00 > s01 and s11 > s10
    assert [found[name].item() for name in ("text", "image", "group")] == [
        text,
        image,
        text and image,
    ]


def test_chance_is_the_mean_over_all_orders() -> None:
    orders = torch.tensor(list(permutations(range(4))), dtype=torch.float64)
    judged = judge(orders.flatten(), [2] * 2 * len(orders))
    found = group_scores(judged, torch.arange(2 * len(orders)).view(-1, 2))
    metrics = group_metrics(found, [None] * len(orders), "p")
    for name, chance in GROUP_CHANCE.items():
        assert metrics[f"p/{name}"] == pytest.approx(chance)
        assert metrics[f"p/{name}_chance"] == chance
    assert GROUP_CHANCE["group"] == pytest.approx(16.67, abs=0.01)


@pytest.mark.parametrize("score", [dot_product, Score(lambda a, b: -torch.cdist(a, b))])
def test_pairs_are_scored_by_the_score(score: Score) -> None:
    rng = torch.Generator().manual_seed(0)
    images, texts = (torch.randn(n, 4, generator=rng) for n in (50, 70))
    pairs = torch.stack([torch.randint(n, (130,), generator=rng) for n in (50, 70)], 1)
    expected = score(images, texts)[pairs[:, 0], pairs[:, 1]].double()
    torch.testing.assert_close(
        score_pairs(score, images, texts, pairs), expected, atol=1e-5, rtol=0
    )


def test_a_score_that_is_no_number_is_an_error() -> None:
    def broken(images: Tensor, texts: Tensor) -> Tensor:
        return torch.full((len(images), len(texts)), torch.nan)

    with pytest.raises(ValueError, match="score is NaN of pair 0"):
        score_pairs(Score(broken), torch.ones(1, 2), torch.ones(1, 2), torch.zeros(1, 2).long())
