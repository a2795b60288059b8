"""Canonical correlation analysis as a pair of linear heads: the baseline of the study `matching`.

Regularised linear CCA (Hardoon et al. 2004) of the features of an image and of its text, each
direction weighted by its correlation, as a `clip` method whose heads are the two projections: it is
measured by the same code, on the same features, as what is trained. The penalty, the number of
directions and the power of the weights are those with the greatest rsum on a tenth of the training
texts, which is held out for this choice.
"""

from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import cholesky, solve_triangular, svd
from torch import nn

from xmodal.assembly.data import Shards
from xmodal.data.decode import BadSample
from xmodal.data.manifest import Manifest
from xmodal.data.reader import SampleReader
from xmodal.evaluation.metrics.ranking import count_ranks
from xmodal.evaluation.metrics.recall import recall_metrics
from xmodal.methods.clip import Clip
from xmodal.methods.method import Method

PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # times the mean variance of a side's features
DIRECTIONS = (64, 128, 256)
POWERS = (1.0, 2.0, 4.0)


class Features(NamedTuple):
    """Features of images and of their texts."""

    images: np.ndarray  # (images, features)
    texts: np.ndarray  # (texts, features)
    owners: np.ndarray  # (texts,) each text's image


@dataclass(frozen=True)
class Projections:
    """Directions that CCA found on both sides, by falling correlation."""

    images: np.ndarray  # (features, directions)
    texts: np.ndarray  # (features, directions)
    image_mean: np.ndarray  # (features,)
    text_mean: np.ndarray  # (features,)
    correlations: np.ndarray  # (directions,)

    def set_heads(self, method: Clip, directions: int, power: float) -> None:
        """Make the first directions the heads of a method."""
        weights = self.correlations[:directions] ** power
        for tower, side, mean in (
            (method.image, self.images, self.image_mean),
            (method.text, self.texts, self.text_mean),
        ):
            matrix = torch.from_numpy((side[:, :directions] * weights).T).float()
            head = nn.Linear(matrix.shape[1], matrix.shape[0])
            with torch.no_grad():
                head.weight.copy_(matrix)
                head.bias.copy_(-matrix @ torch.from_numpy(mean).float())
            tower.head = head


def fit_cca(method: Method, shards: Shards) -> str:
    """Set the heads of a `clip` method to the directions that CCA finds on the features of its
    training shards; return a line about the settings.
    """
    assert isinstance(method, Clip)
    (training,) = shards.train
    features = read_features(training)
    # Images of one text stay together: else texts that are held out have been trained on.
    _, first = np.unique(features.owners, return_index=True)
    _, group = np.unique(features.texts[first], axis=0, return_inverse=True)
    held_out = group % 10 == 0
    tried = {}
    for penalty in PENALTIES:
        found = correlate(_of_images(features, ~held_out), penalty)
        for directions, power in product(DIRECTIONS, POWERS):
            found.set_heads(method, directions, power)
            tried[penalty, directions, power] = _rsum(method, _of_images(features, held_out))
    penalty, directions, power = max(tried, key=lambda settings: tried[settings])
    correlate(features, penalty).set_heads(method, directions, power)
    return f"CCA: penalty {penalty:g}, {directions} directions, weights to the power {power:g}"


def correlate(features: Features, penalty: float) -> Projections:
    """Return the directions of greatest correlation of images with their texts."""
    x, y = features.images[features.owners].astype(float), features.texts.astype(float)
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    roots = []
    for side in (x, y):
        covariance = side.T @ side / len(side)
        covariance.flat[:: len(covariance) + 1] += penalty * covariance.trace() / len(covariance)
        roots.append(cholesky(covariance, lower=True))
    crossed = solve_triangular(roots[0], x.T @ y / len(x), lower=True)
    crossed = solve_triangular(roots[1], crossed.T, lower=True).T
    left, correlations, right = svd(crossed, full_matrices=False)
    return Projections(
        solve_triangular(roots[0], left, lower=True, trans="T"),
        solve_triangular(roots[1], right.T, lower=True, trans="T"),
        x_mean,
        y_mean,
        correlations,
    )


def read_features(shards: Manifest) -> Features:
    """Read all features of a shard set."""
    reader = SampleReader(shards)
    images: list[np.ndarray] = []
    texts: list[np.ndarray] = []
    owners: list[int] = []
    for number in range(len(reader)):
        try:
            image, text = reader[number].features("image"), reader[number].features("text")
        except BadSample:
            continue
        assert image is not None
        assert text is not None
        owners += [len(images)] * len(text)
        images.append(image)
        texts.append(text)
    return Features(np.stack(images), np.concatenate(texts), np.array(owners))


def _of_images(features: Features, chosen: np.ndarray) -> Features:
    kept = chosen[features.owners]
    places = np.cumsum(chosen) - 1
    return Features(features.images[chosen], features.texts[kept], places[features.owners[kept]])


def _rsum(method: Clip, features: Features) -> float:
    with torch.no_grad():
        images = nn.functional.normalize(method.image.head(torch.from_numpy(features.images)))
        texts = nn.functional.normalize(method.text.head(torch.from_numpy(features.texts)))
    pairs = torch.from_numpy(np.stack([features.owners, np.arange(len(texts))], 1))
    return recall_metrics(count_ranks(images, texts, pairs), pairs, "cca")["cca/rsum"]
