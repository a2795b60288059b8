"""Average precision against hand-computed cases, a walk through sorted results, scikit-learn."""

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torch import Tensor

from tests.processes import on_ranks
from xmodal.evaluation.gallery import Gallery
from xmodal.evaluation.metrics.average_precision import (
    CURVE,
    Precisions,
    chance_average_precision,
    class_metrics,
    class_precisions,
    judge,
    precisions,
    standardised,
)
from xmodal.evaluation.metrics.classes import classes_of
from xmodal.evaluation.metrics.similarity import Similarity
from xmodal.methods.scores import dot_product

COSINE = Similarity(dot_product)


def metrics_of(found: Gallery, tile: int) -> dict[str, float]:
    """Return the metrics of a gallery, all named `p`."""
    classes = classes_of(found)
    return class_metrics(class_precisions(found, classes, COSINE, tile), found, classes, "p")


def places(*relevant: int, ties: tuple[int, ...] = ()) -> Precisions:
    """Judge one order: 1 where a place has a relevant item; `ties` go on with the next place."""
    ends = torch.ones(1, len(relevant), dtype=torch.bool)
    ends[0, list(ties)] = False
    return judge(torch.tensor([relevant]).bool(), ends)


def test_several_relevant_items_by_hand() -> None:
    found = places(1, 0, 1, 0, 0, 1)
    assert found.relevant.tolist() == [3]
    assert found.average.tolist() == pytest.approx([(1 / 1 + 2 / 3 + 3 / 6) / 3])
    # Recall 1/3 at precision 1, 2/3 at 2/3, 1 at 1/2.
    assert found.curve[0].tolist() == pytest.approx([1] * 4 + [2 / 3] * 3 + [1 / 2] * 4)


def test_precision_is_interpolated_by_the_best_at_that_recall_or_beyond() -> None:
    # Precisions 1/2, 2/3, 3/4, 4/5: the last is the best of all.
    assert places(0, 1, 1, 1, 1).curve[0].tolist() == pytest.approx([4 / 5] * 11)


def test_wrong_items_of_the_same_score_come_first() -> None:
    assert places(1, 1, 0, 0, ties=(0, 1, 2)).average.tolist() == pytest.approx(
        [(1 / 3 + 2 / 4) / 2]
    )
    # The second and third place have one score, whichever of them is relevant.
    expected = [(1 / 1 + 2 / 3) / 2]
    assert places(1, 1, 0, 0, ties=(1,)).average.tolist() == pytest.approx(expected)
    assert places(1, 0, 1, 0, ties=(1,)).average.tolist() == pytest.approx(expected)


def test_of_the_first_fifty_only_those_that_are_there_count() -> None:
    found = places(*[1] + [0] * 48 + [1] + [0] * 10 + [1] * 20)
    assert found.average_at.tolist() == pytest.approx([(1 / 1 + 2 / 50) / 2])
    # A tie across the border puts wrong items before it and the relevant one beyond.
    found = places(*[1] + [0] * 48 + [1] + [0] * 10, ties=(49,))
    assert found.average_at.tolist() == pytest.approx([1])
    assert places(*[0] * 50 + [1]).average_at.tolist() == [0]


def test_nothing_relevant_is_worth_nothing() -> None:
    found = places(0, 0, 0)
    assert [found.relevant.item(), found.average.item(), found.average_at.item()] == [0, 0, 0]
    assert found.curve[0].tolist() == [0] * 11


def by_walking(scores: np.ndarray, relevant: np.ndarray, k: int) -> tuple[float, list[float]]:
    """Average precision of the first k as the PKU group's code has it, and interpolated precision.

    One result after the other; wrong ones first in a tie.
    """
    order = np.lexsort((relevant, -scores))
    hits, total, points = 0, 0.0, []
    for place, item in enumerate(order[:k], start=1):
        if relevant[item]:
            hits += 1
            total += hits / place
            points.append((hits, hits / place))
    recalls = [Fraction(tenth, 10) * int(relevant.sum()) for tenth in range(11)]
    curve = [max((p for h, p in points if h >= recall), default=0.0) for recall in recalls]
    return total / max(hits, 1), curve


@given(
    num_queries=st.integers(1, 60),
    num_items=st.integers(1, 200),
    classes=st.integers(1, 6),
    largest=st.integers(0, 3),
    tile=st.sampled_from([1, 100, 2048]),
    seed=st.integers(0, 2**32 - 1),
)
def test_it_is_what_a_walk_through_sorted_results_gives_with_many_ties(
    num_queries: int, num_items: int, classes: int, largest: int, tile: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Small whole numbers: every score is exact, many are equal.
    queries = torch.randint(-largest, largest + 1, (num_queries, 3), generator=generator).float()
    items = torch.randint(-largest, largest + 1, (num_items, 3), generator=generator).float()
    relevant = torch.randint(classes, (num_queries, num_items), generator=generator) == 0

    found = precisions(queries, items, COSINE, lambda rows: relevant[rows], tile)

    scores = (queries @ items.T).numpy()
    for row in range(num_queries):
        average, curve = by_walking(scores[row], relevant[row].numpy(), num_items)
        average_at, _ = by_walking(scores[row], relevant[row].numpy(), 50)
        assert found.average[row].item() == pytest.approx(average, rel=1e-12)
        assert found.average_at[row].item() == pytest.approx(average_at, rel=1e-12)
        assert found.curve[row].tolist() == pytest.approx(curve, rel=1e-12)
    assert found.relevant.tolist() == relevant.sum(1).tolist()


def test_without_ties_it_is_that_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(70, 8, generator=generator, dtype=torch.float64)
    items = torch.randn(300, 8, generator=generator, dtype=torch.float64)
    relevant = torch.rand(70, 300, generator=generator) < 0.2
    found = precisions(queries, items, COSINE, lambda rows: relevant[rows], 100)
    scores = (queries @ items.T).numpy()
    expected = [average_precision_score(*row) for row in zip(relevant.numpy(), scores, strict=True)]
    np.testing.assert_allclose(found.average, expected, rtol=1e-12)


def test_a_collapsed_method_does_not_depend_on_the_order_of_the_gallery() -> None:
    relevant = torch.zeros(1, 40, dtype=torch.bool)
    for first in (0, 17, 35):
        relevant[:] = False
        relevant[0, first : first + 5] = True
        found = precisions(torch.ones(1, 2), torch.ones(40, 2), COSINE, lambda _: relevant, 2048)
        assert found.average.item() == pytest.approx(sum(n / (35 + n) for n in range(1, 6)) / 5)


@pytest.mark.parametrize("k", [1, 2, 4, 7, 50])
@pytest.mark.parametrize(("relevant", "size"), [(1, 1), (1, 7), (3, 7), (6, 7), (7, 7)])
def test_chance_is_the_mean_over_all_orders(relevant: int, size: int, k: int) -> None:
    of_orders = []
    for places in combinations(range(1, size + 1), relevant):
        inside = [place for place in places if place <= k]
        total = sum(Fraction(hits, place) for hits, place in enumerate(inside, start=1))
        of_orders.append(total / max(len(inside), 1))
    exact = float(sum(of_orders) / len(of_orders))
    chance = chance_average_precision(torch.tensor([relevant]), size, k)
    assert chance.item() == pytest.approx(exact, rel=1e-12)


def gallery(*labels: list[str], dim: int = 4, captions: int = 2, seed: int = 0) -> Gallery:
    generator = torch.Generator().manual_seed(seed)
    images = len(labels)
    sides = [torch.randn(n, dim, generator=generator) for n in (images, captions * images)]
    numbers = torch.arange(images)
    owners = numbers.repeat_interleave(captions)
    return Gallery(numbers, numbers, sides[0], owners, sides[1], list(labels))


def test_a_set_by_hand() -> None:
    found = gallery(["cat"], ["dog", "pet"], ["cat", "pet"], [], captions=1)
    found.images = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.0, -1.0]])
    found.texts = torch.tensor([[0.8, 0.6], [1.0, 0.1], [0.0, 1.0], [0.5, 0.0]])
    metrics = metrics_of(found, 2048)
    # Texts by image 0: 1, 0*, 3, 2*; by image 1: 2*, 0, 1*, 3; by image 2: 0*, 2*, 1*, 3.
    image_to_text = ((1 / 2 + 2 / 4) / 2 + (1 + 2 / 3) / 2 + 1) / 3
    # Images by text 0: 2*, 0*, 1, 3; by text 1: 0, 2*, 1*, 3; by text 2: 1*, 2*, 0*, 3.
    text_to_image = (1 + (1 / 2 + 2 / 3) / 2 + 1) / 3
    assert metrics["p/image_to_text/map"] == pytest.approx(100 * image_to_text)
    assert metrics["p/image_to_text/map@50"] == pytest.approx(100 * image_to_text)
    assert metrics["p/text_to_image/map"] == pytest.approx(100 * text_to_image)
    assert metrics["p/map"] == pytest.approx(50 * (image_to_text + text_to_image))
    assert metrics["p/image_to_text/precision@recall_0.0"] == pytest.approx(100 * 2.5 / 3)
    chances = chance_average_precision(torch.tensor([2, 2, 3]), 4, 4)
    assert metrics["p/image_to_text/map_chance"] == pytest.approx(100 * float(chances.mean()))
    for direction in ("image_to_text", "text_to_image"):
        assert metrics[f"p/{direction}/queries"] == 3
        assert metrics[f"p/{direction}/queries_skipped"] == 1
        assert all(0 < metrics[f"p/{direction}/{name}"] <= 100 for name in CURVE)
    assert [metrics[f"p/num_{n}"] for n in ("images", "texts", "classes")] == [4, 4, 3]


def test_all_captions_of_an_image_have_its_classes() -> None:
    found = gallery(["a"], ["b"], captions=3)
    found.images = torch.eye(2)
    found.texts = torch.eye(2).repeat_interleave(3, 0)
    metrics = metrics_of(found, 2048)
    assert metrics["p/map"] == 100
    assert metrics["p/text_to_image/queries"] == 6
    assert metrics["p/num_classes"] == 2


def test_random_scores_reach_chance() -> None:
    found = gallery(*([str(n % 5)] for n in range(300)))
    metrics = metrics_of(found, 2048)
    for name in ("map", "map@50"):
        for direction in ("image_to_text", "text_to_image"):
            chance = metrics[f"p/{direction}/{name}_chance"]
            assert 20 < chance < 30
            assert metrics[f"p/{direction}/{name}"] == pytest.approx(chance, rel=0.1)


def test_standardised_embeddings_are_z_scores_on_the_sphere() -> None:
    found = gallery(*[["a"]] * 50, dim=6)
    found.images[:, 2] = 0.1  # constant: says nothing
    found.texts[:, 3] += 100
    for side in ("images", "texts"):
        given = getattr(found, side).double().numpy()
        expected = np.zeros_like(given)
        varied = given.std(0) > 1e-6
        expected[:, varied] = scipy.stats.zscore(given[:, varied], ddof=1)
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(getattr(standardised(found), side), expected, atol=1e-6)
    assert standardised(found).labels == found.labels


def test_a_nan_is_an_error() -> None:
    found = gallery(*[["a"]] * 60)
    found.texts[100, 1] = torch.nan
    with pytest.raises(ValueError, match="a score is NaN of query 0"):
        metrics_of(found, 2048)


def measured(labels: list[list[str]]) -> tuple[dict[str, float], str]:
    """The metrics of a random gallery, and the error where its last image is NaN."""
    found = gallery(*labels)
    metrics = metrics_of(found, 64)
    found.images[-1] = torch.nan
    with pytest.raises(ValueError, match="NaN") as error:
        metrics_of(found, 64)
    return metrics, str(error.value)


def test_ranks_share_the_queries_and_get_the_same() -> None:
    labels = [[str(n % 7)] * (n % 3 > 0) for n in range(130)]
    alone = measured(labels)
    assert alone[1] == "a score is NaN of query 129"
    assert on_ranks(2, measured, labels) == [alone, alone]


def test_memory_is_that_of_a_block_of_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0

    def watched(a: Tensor, b: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, len(a) * len(b))
        return a @ b.T

    rows_judged = []

    def relevance(rows: Tensor) -> Tensor:
        rows_judged.append(len(rows))
        return torch.ones(len(rows), 5000, dtype=torch.bool)

    precisions(torch.ones(2000, 2), torch.ones(5000, 2), Similarity(watched), relevance, 500)
    assert sum(rows_judged) == 2000
    assert max(rows_judged) * 5000 <= 500**2
    assert largest <= 500**2
