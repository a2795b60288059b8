"""Logistic regression as heads of a method."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from benchmarks.semantic_matching import STRENGTHS, best_strength, classifier


def features_of(classes: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Features off centre, of unequal variance, whose first numbers tell the class."""
    random = np.random.default_rng(classes)
    labels = random.integers(0, classes, 300)
    features = random.normal(size=(300, 8)) * noise
    features[:, :classes] += np.eye(classes)[labels]
    return (features * np.arange(1, 9) + 3).astype(np.float32), np.array(list("abcd"))[labels]


@pytest.mark.parametrize("classes", [2, 4])
def test_heads_give_the_probabilities_of_scikit_learn(classes: int) -> None:
    features, labels = features_of(classes, 0.5)
    scaled = StandardScaler().fit_transform(features.astype(float))
    expected = LogisticRegression(C=0.1).fit(scaled, labels).predict_proba(scaled)
    with torch.no_grad():
        found = classifier(features, labels, 0.1)(torch.from_numpy(features)) + 1 / classes
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_the_penalty_is_chosen_on_what_is_held_out() -> None:
    held_out = np.arange(300) % 10 == 0
    clear, noisy = (best_strength(*features_of(4, noise), held_out) for noise in (0.1, 20))
    assert clear == max(STRENGTHS)
    assert noisy < 0.1
