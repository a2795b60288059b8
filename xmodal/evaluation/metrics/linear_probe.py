"""Linear probe: logistic regression on frozen embeddings (Radford et al. 2021, appendix A.3)."""

import warnings
from collections.abc import Callable, Iterable

import numpy as np

from xmodal.activity import activity
from xmodal.distributed.collectives import gather_objects, rank, world_size

STEPS = 8  # strengths of regularisation a decade
HIGHEST = 6 * STEPS  # C is 10 ** (step / STEPS), from 1e-6 to 1e6
FIRST = 2 * STEPS  # between the strengths that the search begins with
PART = 5  # one of so many images of a class is of the validation part
MAX_ITERATIONS = 1000
TOLERANCE = 1e-6  # of the gradient


def linear_probe(
    train: np.ndarray, of_train: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, float]:
    """Return the scores of a linear classifier of all training images, and its C.

    C is what classifies best a fifth of the training images, by a classifier of the others. All
    ranks call this together.

    Args:
        train: (images, dim) float64.
        of_train: (images, classes) bool; each class has an image, and each image a class.
        test: (queries, dim) float64.

    Returns:
        (queries, classes) float64, and C.
    """
    held = validation_part(of_train.argmax(1))

    def accuracy(step: int) -> float:
        known, scores = fit(train[~held], of_train[~held], strength(step))
        found = known[scores(train[held]).argmax(1)]
        return float(of_train[held][np.arange(len(found)), found].mean())

    best = search(accuracy) if held.any() else 0
    _, scores = fit(train, of_train, strength(best))
    return scores(test), strength(best)


def strength(step: int) -> float:
    """Return C of a step, of which there are eight a decade."""
    return float(10 ** (step / STEPS))


def search(accuracy: Callable[[int], float]) -> int:
    """Return the step of the highest accuracy that CLIP's search finds, of equals the smallest.

    It begins with seven, a hundredfold each, and halves the interval around the best so far. All
    ranks call it, and share the work.
    """
    found: dict[int, float] = {}

    def peak(steps: Iterable[int]) -> int:
        new = [step for step in steps if abs(step) <= HIGHEST and step not in found]
        own = new[rank() :: world_size()]
        found.update(gather_objects([(step, accuracy(step)) for step in own]))
        return max(sorted(found), key=found.__getitem__)

    best, width = peak(range(-HIGHEST, HIGHEST + 1, FIRST)), FIRST // 2
    while width:
        best = peak((best - width, best + width))
        width //= 2
    return best


def validation_part(classes: np.ndarray) -> np.ndarray:
    """Return the second image of each class and every fifth from there, (images,) bool."""
    order = classes.argsort(kind="stable")
    starts = np.searchsorted(classes[order], classes[order])
    number = np.empty(len(classes), dtype=np.int64)
    number[order] = np.arange(len(classes)) - starts
    return number % PART == 1


def fit(
    images: np.ndarray, of_images: np.ndarray, strength: float
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Minimise C Σ cross entropy + ‖W‖² / 2, the bias free, by L-BFGS in float64.

    An image of several classes counts once for each. Return the classes that there are, (known,),
    and the function of their scores (n, known).
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS, tol=TOLERANCE)
    with warnings.catch_warnings(), activity(f"fitting a linear probe, C = {strength:.3g}"):
        warnings.simplefilter("ignore", ConvergenceWarning)  # as in CLIP's: the last is as good
        rows, classes = of_images.nonzero()
        model.fit(images[rows], classes)

    def scores(queries: np.ndarray) -> np.ndarray:
        found = model.decision_function(queries)
        return np.stack([-found, found], 1) if found.ndim == 1 else found

    return model.classes_, scores
