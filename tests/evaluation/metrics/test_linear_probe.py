"""Linear probe: the optimum, CLIP's search, and the validation part."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmodal.evaluation.metrics.linear_probe import (
    HIGHEST,
    fit,
    linear_probe,
    search,
    strength,
    validation_part,
)


def drawn(seed: int, rows: int = 80, classes: int = 4, dim: int = 5) -> tuple:
    """Return unit vectors around a centre for each class, and the classes."""
    rng = np.random.default_rng(seed)
    of_rows = rng.permutation(np.arange(rows) % classes)
    vectors = rng.normal(size=(classes, dim))[of_rows] + rng.normal(size=(rows, dim))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), of_rows


def one_hot(classes: np.ndarray) -> np.ndarray:
    return np.eye(classes.max() + 1, dtype=bool)[classes]


def scores_of_gradient_descent(
    rows: np.ndarray, classes: np.ndarray, queries: np.ndarray, c: float
) -> np.ndarray:
    """Minimise C Σ cross entropy + ‖W‖² / 2 by plain gradient descent in float64."""
    count = int(classes.max()) + 1
    weights, bias = np.zeros((count, rows.shape[1])), np.zeros(count)
    truth = np.eye(count)[classes]
    rate = 1 / (1 + c * len(rows))
    for _ in range(30_000):
        logits = rows @ weights.T + bias
        shares = np.exp(logits - logits.max(1, keepdims=True))
        wrong = c * (shares / shares.sum(1, keepdims=True) - truth)
        weights -= rate * (weights + wrong.T @ rows)
        bias -= rate * wrong.sum(0)
    return queries @ weights.T + bias


@pytest.mark.parametrize(("classes", "c"), [(4, 0.1), (4, 3.0), (2, 1.0)])
def test_a_fit_is_the_minimum(classes: int, c: float) -> None:
    rows, of_rows = drawn(0, classes=classes)
    queries = drawn(1)[0]
    found = fit(rows, one_hot(of_rows), c)[1](queries)
    # Two classes have one weight between them, with half the penalty of two.
    expected = scores_of_gradient_descent(rows, of_rows, queries, c / 2 if classes == 2 else c)
    expected = expected - expected.mean(1, keepdims=True)
    found = found / 2 if classes == 2 else found - found.mean(1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@given(st.integers(-HIGHEST, HIGHEST))
def test_the_search_finds_a_single_peak(peak: int) -> None:
    tried: list[int] = []

    def accuracy(step: int) -> float:
        tried.append(step)
        return -abs(step - peak)

    assert search(accuracy) == peak
    assert len(tried) == len(set(tried)) <= 7 + 2 * 4


def test_of_equal_strengths_the_smallest_is_chosen() -> None:
    assert search(lambda step: float(step >= 0)) == 0
    assert search(lambda _: 1.0) == -HIGHEST
    assert (strength(0), strength(8), strength(-HIGHEST)) == (1, 10, pytest.approx(1e-6))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_every_class_keeps_rows_beside_the_validation_part(classes: list[int]) -> None:
    held = validation_part(np.array(classes))
    for one in set(classes):
        numbers = [held[row] for row, other in enumerate(classes) if other == one]
        assert numbers == [n % 5 == 1 for n in range(len(numbers))]


def test_a_probe_is_the_refit_on_all_rows() -> None:
    rows, classes = drawn(2)
    queries, _ = drawn(3)
    scores, c = linear_probe(rows, one_hot(classes), queries)
    held = validation_part(classes)

    def accuracy(step: int) -> float:
        found = fit(rows[~held], one_hot(classes)[~held], strength(step))[1](rows[held])
        return (found.argmax(1) == classes[held]).mean()

    assert c == strength(search(accuracy))
    np.testing.assert_array_equal(scores, fit(rows, one_hot(classes), c)[1](queries))
    again, _ = linear_probe(rows, one_hot(classes), queries)
    np.testing.assert_array_equal(scores, again)


def test_without_a_second_image_of_any_class_nothing_is_held_back() -> None:
    rows = np.eye(3)
    scores, c = linear_probe(rows, np.eye(3) > 0, rows)
    assert c == 1
    assert scores.argmax(1).tolist() == [0, 1, 2]


def test_an_image_of_several_classes_counts_for_each() -> None:
    rows, classes = drawn(4)
    second = drawn(5)[1]
    both = one_hot(classes) | one_hot(second)
    pairs = both.nonzero()
    known, scores = fit(rows, both, 2.0)
    _, expected = fit(rows[pairs[0]], one_hot(pairs[1]), 2.0)
    np.testing.assert_array_equal(scores(rows), expected(rows))
    assert known.tolist() == [0, 1, 2, 3]
    # A class that comes second everywhere has scores too, though none of the part held back.
    of_rows = np.zeros((6, 3), dtype=bool)
    of_rows[:, 0], of_rows[3:, 1], of_rows[1, 2] = True, True, True
    scores, _ = linear_probe(rows[:6], of_rows, rows)
    assert scores.shape == (len(rows), 3)
