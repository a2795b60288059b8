"""Linear probe: logistic regression on frozen embeddings (Radford et al. 2021, appendix A.3)."""

import warnings
from collections.abc import Callable, Iterable

import numpy as np

from xmodal.activity import activity

STEPS = 8  # strengths of regularisation a decade
HIGHEST = 6 * STEPS  # C is 10 ** (step / STEPS), from 1e-6 to 1e6
FIRST = 2 * STEPS  # between the strengths that the search begins with
PART = 5  # one of so many images of a class is of the validation part
MAX_ITERATIONS = 1000
TOLERANCE = 1e-6  # of the gradient


def linear_probe(
    train: np.ndarray, classes: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, float]:
    """Return the scores of a linear classifier of all training rows, and its C.

    C is what classifies best a fifth of the training rows, by a classifier of the others.

    Args:
        train: (rows, dim) float64.
        classes: (rows,) integers from 0, two at least, of each of which there is a row.
        test: (queries, dim) float64.

    Returns:
        (queries, classes) float64, and C.
    """
    held = validation_part(classes)

    def accuracy(step: int) -> float:
        scores = fit(train[~held], classes[~held], strength(step))(train[held])
        return float((np.unique(classes[~held])[scores.argmax(1)] == classes[held]).mean())

    best = search(accuracy) if held.any() else 0
    return fit(train, classes, strength(best))(test), strength(best)


def strength(step: int) -> float:
    """Return C of a step, of which there are eight a decade."""
    return float(10 ** (step / STEPS))


def search(accuracy: Callable[[int], float]) -> int:
    """Return the step of the highest accuracy that CLIP's search finds, of equals the smallest.

    It begins with seven, a hundredfold each, and halves the interval around the best so far.
    """
    found: dict[int, float] = {}

    def peak(steps: Iterable[int]) -> int:
        for step in steps:
            if abs(step) <= HIGHEST and step not in found:
                found[step] = accuracy(step)
        return max(sorted(found), key=found.__getitem__)

    best, width = peak(range(-HIGHEST, HIGHEST + 1, FIRST)), FIRST // 2
    while width:
        best = peak((best - width, best + width))
        width //= 2
    return best


def validation_part(classes: np.ndarray) -> np.ndarray:
    """Return (rows,) bool: of each class the second row and every fifth from there."""
    order = classes.argsort(kind="stable")
    starts = np.searchsorted(classes[order], classes[order])
    number = np.empty(len(classes), dtype=np.int64)
    number[order] = np.arange(len(classes)) - starts
    return number % PART == 1


def fit(
    rows: np.ndarray, classes: np.ndarray, strength: float
) -> Callable[[np.ndarray], np.ndarray]:
    """Fit minimum of C Σ cross entropy + ‖W‖² / 2 (the bias is free), by L-BFGS in float64.

    Return the function of its scores (n, classes), in order of the classes.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS, tol=TOLERANCE)
    with warnings.catch_warnings(), activity(f"fitting a linear probe, C = {strength:.3g}"):
        warnings.simplefilter("ignore", ConvergenceWarning)  # as in CLIP's: the last is as good
        model.fit(rows, classes)

    def scores(queries: np.ndarray) -> np.ndarray:
        found = model.decision_function(queries)
        return np.stack([-found, found], 1) if found.ndim == 1 else found

    return scores
