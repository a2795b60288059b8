"""Visual similarity against scikit-learn, a walk through each order, and cases by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    adjusted_mutual_info_score,
    average_precision_score,
    ndcg_score,
    normalized_mutual_info_score,
)
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from tests.processes import on_ranks
from xmodal.evaluation.metrics.classes import Classes
from xmodal.evaluation.metrics.visual import (
    CUTOFFS,
    TEMPERATURE,
    chance_precision_at_r,
    graded_metrics,
    nmi,
    num_neighbours,
    precision_at_r,
    visual_metrics,
    votes_right,
    worst_first,
)


def classes_of(labels: list[list[str]]) -> Classes:
    names = sorted({one for of_image in labels for one in of_image})
    rows = [[name in of_image for name in names] for of_image in labels]
    return Classes(names, torch.tensor(rows, dtype=torch.bool))


def drawn(seed: int, count: int = 60, *, ties: bool = False) -> tuple[Tensor, Classes]:
    """Embeddings and one to three labels of each image, some of none."""
    rng = torch.Generator().manual_seed(seed)
    numbers = torch.randint(6, (count, 3), generator=rng)
    many = torch.randint(4, (count,), generator=rng)
    labels = [
        [str(n) for n in {*row[:many_of].tolist()}]
        for row, many_of in zip(numbers, many.tolist(), strict=True)
    ]
    if ties:
        return torch.randint(-1, 2, (count, 3), generator=rng).float(), classes_of(labels)
    images = torch.randn(count, 5, generator=rng, dtype=torch.float64)
    return F.normalize(images, dim=1), classes_of(labels)


def ids_of(images: Tensor) -> Tensor:
    return torch.arange(len(images))


def test_a_case_by_hand() -> None:
    # On a line: a b | b a a, cosines fall with the distance.
    angles = torch.tensor([0.0, 0.1, 0.25, 0.45, 0.7], dtype=torch.float64)
    images = torch.stack([angles.cos(), angles.sin()], 1)
    classes = classes_of([["a"], ["b"], ["b"], ["a"], ["a"]])
    metrics = visual_metrics(images, ids_of(images), classes, "visual", 64)
    # Of the five, the classes of what each finds in order: bbaa, abaa, baaa, baba, abba.
    assert metrics["visual/recall@1"] == pytest.approx(100 * 2 / 5)
    assert metrics["visual/recall@2"] == pytest.approx(100 * 4 / 5)
    assert metrics["visual/recall@4"] == pytest.approx(100)
    at_r = [0, 0, 1, (1 / 2) / 2, 1 / 2]  # R is 2, 1, 1, 2, 2
    assert metrics["visual/map@r"] == pytest.approx(100 * sum(at_r) / 5)
    assert metrics["visual/queries"] == 5
    assert metrics["visual/num_classes"] == 2


def test_images_of_the_querys_id_are_removed_and_lonely_ones_left_out() -> None:
    images = torch.eye(4, dtype=torch.float64)[[0, 0, 1, 2, 3]]
    classes = classes_of([["a"], ["a"], ["b"], ["b"], ["c"]])
    apart = visual_metrics(images, torch.tensor([0, 1, 2, 3, 4]), classes, "p", 64)
    same = visual_metrics(images, torch.tensor([0, 0, 2, 3, 4]), classes, "p", 64)
    assert (apart["p/queries"], apart["p/queries_skipped"]) == (4, 1)
    assert (same["p/queries"], same["p/queries_skipped"]) == (2, 3)
    assert apart["p/recall@1"] == pytest.approx(50)
    assert same["p/recall@1"] == 0


def test_all_in_one_point_finds_nothing_first() -> None:
    images = torch.ones(60, 4) / 2
    classes = classes_of([[str(n % 3)] for n in range(60)])
    metrics = visual_metrics(images, ids_of(images), classes, "p", 64)
    for name in ("recall@1", "recall@8", "map@r", "knn_accuracy", "nmi"):
        assert metrics[f"p/{name}"] == pytest.approx(0, abs=1e-6), name


def walked(images: Tensor, classes: Classes, query: int) -> tuple[list[bool], np.ndarray]:
    """Whether each place of a query's order is right, worse ones first, and the items."""
    scores = (images @ images[query]).tolist()
    right = (classes.of_images & classes.of_images[query]).any(1).tolist()
    others = [n for n in range(len(images)) if n != query]
    order = sorted(others, key=lambda n: (-scores[n], right[n]))
    return [right[n] for n in order], np.array(order)


@pytest.mark.parametrize("ties", [False, True])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=15)
def test_recall_and_map_are_what_a_walk_through_each_order_finds(ties: bool, seed: int) -> None:
    images, classes = drawn(seed, ties=ties)
    metrics = visual_metrics(images, ids_of(images), classes, "p", 64)
    orders = [walked(images, classes, query)[0] for query in range(len(images))]
    orders = [order for order in orders if any(order)]
    assert metrics["p/queries"] == len(orders)
    for k in CUTOFFS:
        expected = 100 * sum(any(order[:k]) for order in orders) / len(orders)
        assert metrics[f"p/recall@{k}"] == pytest.approx(expected)
    at_r = []
    for order in orders:
        total = sum(order)
        hits = [sum(order[: n + 1]) / (n + 1) for n in range(total) if order[n]]
        at_r.append(sum(hits) / total)
    assert metrics["p/map@r"] == pytest.approx(100 * sum(at_r) / len(at_r))


def test_map_at_r_is_scikit_learns_average_precision_where_all_right_are_within_r() -> None:
    order = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 1, 0, 0, 0, 0]]).bool()
    places = -np.arange(6.0)
    assert precision_at_r(order).tolist() == pytest.approx(
        [average_precision_score(order[0].numpy(), places), 0]
    )


def test_equals_come_by_rising_worth() -> None:
    scores = torch.tensor([[1.0, 3.0, 1.0, 3.0, 2.0]])
    worth = torch.tensor([[0.5, 1.0, 0.0, 0.25, 9.0]])
    assert worst_first(scores, worth).tolist() == [[3, 1, 4, 2, 0]]


def test_the_vote_is_scikit_learns_weighted_one() -> None:
    images, _ = drawn(5, count=120)
    labels = torch.randint(5, (120,), generator=torch.Generator().manual_seed(2))
    classes = classes_of([[str(n)] for n in labels.tolist()])
    found = []
    for query in range(120):
        others = [n for n in range(120) if n != query]
        votes = KNeighborsClassifier(
            20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / TEMPERATURE)
        )
        votes.fit(images[others].numpy(), labels[others].numpy())
        found.append(votes.predict(images[[query]].numpy())[0] == int(labels[query]))
    metrics = visual_metrics(images, ids_of(images), classes, "p", 64)
    assert metrics["p/num_neighbours"] == 20
    assert metrics["p/knn_accuracy"] == pytest.approx(100 * np.mean(found))


def test_of_two_images_a_class_the_nearest_alone_votes() -> None:
    # Each image has its partner nearest, and the next pair not far.
    angles = torch.arange(80, dtype=torch.float64) // 2 / 30 + torch.arange(80) % 2 / 100
    images = torch.stack([angles.cos(), angles.sin()], 1)
    classes = classes_of([[f"{n // 2:02d}"] for n in range(80)])
    metrics = visual_metrics(images, ids_of(images), classes, "p", 64)
    assert metrics["p/num_neighbours"] == 1
    assert metrics["p/knn_accuracy"] == metrics["p/recall@1"] == 100


def test_as_many_vote_as_an_image_of_the_median_class_has_beside_it() -> None:
    def voters(sizes: list[int], ids: Tensor | None = None) -> int:
        classes = classes_of([[str(n)] for n, size in enumerate(sizes) for _ in range(size)])
        return num_neighbours(torch.arange(sum(sizes)) if ids is None else ids, classes)

    assert voters([30, 40, 50]) == 20
    assert voters([3, 5, 90]) == 4
    assert voters([3, 5, 7, 90]) == 4  # the lower one of two
    assert voters([1, 1, 1, 3, 5, 90]) == 4  # of one image no class can be found
    assert voters([4, 4], torch.tensor([0, 0, 1, 2, 3, 4, 4, 5])) == 2
    assert voters([1, 1]) == 1


def test_a_tie_of_votes_is_lost_and_any_own_class_wins() -> None:
    near = torch.tensor([[0.5, 0.5, -torch.inf]])
    voters = torch.tensor([[[1, 0, 0], [0, 1, 0], [1, 0, 0]]]).bool()
    own = torch.tensor([[[1, 0, 0]], [[1, 1, 0]], [[0, 0, 1]]]).bool()
    assert [votes_right(near, voters, one).item() for one in own] == [False, True, False]


def test_nmi_of_clusters_that_are_far_apart() -> None:
    corners = torch.eye(4, dtype=torch.float64)
    numbers = torch.arange(40) % 4
    images = corners[numbers] + 0.01 * torch.randn(
        40, 4, generator=torch.Generator().manual_seed(0)
    )
    assert nmi(images, classes_of([[str(n)] for n in numbers.tolist()]))[0] == pytest.approx(1)
    # Two classes a corner: what k-means finds of them says no more than the corner at best.
    wrong = classes_of([[str(n // 20)] for n in range(40)])
    two = (images[:, 0] + images[:, 1] > 0.5).long()
    assert normalized_mutual_info_score(np.arange(40) // 20, two) == pytest.approx(0)
    assert nmi(images, wrong)[0] == pytest.approx(0, abs=0.05)


def test_chance_of_nmi_is_the_mean_of_shuffled_labels_and_what_ami_subtracts() -> None:
    rng = np.random.default_rng(0)
    numbers = np.arange(60) // 2
    corners = torch.eye(30, dtype=torch.float64)
    # Clusters are the corners, whatever the labels.
    at = rng.permutation(numbers)
    images = corners[torch.from_numpy(at)]
    value, chance = nmi(images, classes_of([[f"{n:02d}"] for n in numbers]))
    assert value == pytest.approx(normalized_mutual_info_score(numbers, at))
    adjusted = adjusted_mutual_info_score(numbers, at)
    assert (value - chance) / (1 - chance) == pytest.approx(adjusted)
    shuffled = [normalized_mutual_info_score(rng.permutation(numbers), at) for _ in range(300)]
    assert chance == pytest.approx(np.mean(shuffled), abs=0.003)
    assert chance > 0.7
    one = classes_of([["a"]] * 60)
    assert nmi(images, one) == (1, 1)


def test_nmi_leaves_out_what_has_no_label() -> None:
    images = torch.eye(3, dtype=torch.float64)[torch.tensor([0, 0, 1, 1, 2, 2])]
    labels = [["a"], ["a"], ["b", "c"], ["b"], [], []]
    assert nmi(images, classes_of(labels))[0] == pytest.approx(1)


@given(right=st.integers(1, 12), others=st.integers(0, 20))
def test_chance_of_map_at_r_is_the_mean_over_all_orders(right: int, others: int) -> None:
    total = right + others
    # P(i) rel(i) is 1 for the item itself and 1 for each right one before it, over i.
    mean = 0.0
    for i in range(1, right + 1):
        before = (i - 1) * (right - 1) / max(total - 1, 1)
        mean += right / total * (1 + before) / i / right
    found = chance_precision_at_r(torch.tensor([right]), torch.tensor([total]))
    assert float(found) == pytest.approx(mean)


def test_chance_of_map_at_r_is_that_of_shuffled_orders() -> None:
    rng = torch.Generator().manual_seed(0)
    order = torch.rand(20_000, 15, generator=rng).argsort(1) < 4
    chance = float(chance_precision_at_r(torch.tensor([4]), torch.tensor([15])))
    assert float(precision_at_r(order).mean()) == pytest.approx(chance, abs=0.004)


def gains_of(classes: Classes, query: int) -> np.ndarray:
    sets = [set(row.nonzero()[:, 0].tolist()) for row in classes.of_images]
    return np.array([len(sets[query] & one) / max(len(sets[query] | one), 1) for one in sets])


@given(seed=st.integers(0, 2**32))
@settings(max_examples=15)
def test_ndcg_is_scikit_learns(seed: int) -> None:
    images, classes = drawn(seed)
    metrics = graded_metrics(images, ids_of(images), classes, "p", 64)
    for name, k in (("ndcg", None), ("ndcg@10", 10)):
        values = []
        for query in range(len(images)):
            others = [n for n in range(len(images)) if n != query]
            gains = gains_of(classes, query)[others]
            if gains.any():
                scores = (images @ images[query]).numpy()[others]
                values.append(ndcg_score([gains], [scores], k=k, ignore_ties=True))
        assert metrics[f"p/{name}"] == pytest.approx(100 * np.mean(values))
        assert metrics["p/queries"] == len(values)


def test_graded_ties_count_against_the_model_and_chance_is_their_mean() -> None:
    _, classes = drawn(8)
    images = torch.ones(60, 1, dtype=torch.float64)
    metrics = graded_metrics(images, ids_of(images), classes, "p", 64)
    worst, mean = [], []
    for query in range(60):
        gains = np.delete(gains_of(classes, query), query)
        if gains.any():
            rising, falling = np.sort(gains), np.sort(gains)[::-1]
            discount = 1 / np.log2(np.arange(59) + 2)
            worst.append((rising * discount).sum() / (falling * discount).sum())
            # It averages over all orders of what is equal.
            mean.append(ndcg_score([gains], [np.ones(59)]))
    assert metrics["p/ndcg"] == pytest.approx(100 * np.mean(worst))
    assert metrics["p/ndcg_chance"] == pytest.approx(100 * np.mean(mean))


def measured() -> list[dict[str, float]]:
    images, classes = drawn(1, count=200)
    return [
        measure(images, ids_of(images), classes, "p", 48)
        for measure in (visual_metrics, graded_metrics)
    ]


def test_ranks_share_the_queries_and_get_the_same() -> None:
    alone = measured()
    assert on_ranks(2, measured) == [alone, alone]
    assert all(math.isfinite(value) for metrics in alone for value in metrics.values())
