"""Semantic matching by logistic regression: a baseline of the studies `matching` and `wikipedia`.

Each modality has a classifier, and images and texts are compared by the cosine of their centred
probabilities of classes (semantic matching with normalised correlation: Rasiwasia et al. 2010), as
a `clip` method whose heads are the two classifiers: it is measured by the same code, on the same
features, as what is trained. Features have unit variance. The penalty of each side is that with the
greatest likelihood on a tenth of the training images, which is held out for this choice.
"""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from xmodal.assembly.data import Shards
from xmodal.data.decode import BadSample
from xmodal.data.manifest import Manifest
from xmodal.data.reader import SampleReader
from xmodal.methods.clip import Clip
from xmodal.methods.method import Method

STRENGTHS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 1.0)  # inverses of penalties


class Posterior(nn.Module):
    """Probabilities of classes less 1 / classes: (batch, features) → (batch, classes)."""

    def __init__(self, weights: np.ndarray, bias: np.ndarray) -> None:
        super().__init__()
        self.layer = nn.Linear(weights.shape[1], len(weights))
        self.layer.weight.data.copy_(torch.from_numpy(weights))
        self.layer.bias.data.copy_(torch.from_numpy(bias))

    def forward(self, features: Tensor) -> Tensor:
        """Return the centred probabilities."""
        found: Tensor = self.layer(features).softmax(1)
        return found - 1 / found.shape[1]


def fit_semantic_matching(method: Method, shards: Shards) -> str:
    """Set the heads of a `clip` method to classifiers of its training shards; return a line about
    their penalties.
    """
    assert isinstance(method, Clip)
    (training,) = shards.train
    images, texts, owners, labels = read_labelled(training)
    held_out = np.arange(len(images)) % 10 == 0
    chosen = []
    for tower, features, rows in (
        (method.image, images, np.arange(len(images))),
        (method.text, texts, owners),
    ):
        strength = best_strength(features, labels[rows], held_out[rows])
        tower.head = classifier(features, labels[rows], strength)
        chosen.append(f"{strength:g}")
    return f"semantic matching: {len(set(labels))} classes, C {' and '.join(chosen)}"


def best_strength(features: np.ndarray, labels: np.ndarray, held_out: np.ndarray) -> float:
    """Return the inverse penalty with the greatest likelihood of what is held out."""
    known = held_out & np.isin(labels, labels[~held_out])
    tried = {}
    for strength in STRENGTHS:
        head = classifier(features[~held_out], labels[~held_out], strength)
        places = np.searchsorted(np.unique(labels[~held_out]), labels[known])
        with torch.no_grad():
            logits = head.layer(torch.from_numpy(features[known]))
        tried[strength] = F.cross_entropy(logits, torch.from_numpy(places)).item()
    return min(tried, key=lambda strength: tried[strength])


def classifier(features: np.ndarray, labels: np.ndarray, strength: float) -> Posterior:
    """Return logistic regression on features (n, features) with labels (n,), as a head."""
    mean, deviation = features.mean(0), features.std(0) + 1e-6
    found = LogisticRegression(C=strength, max_iter=200).fit((features - mean) / deviation, labels)
    weights, bias = found.coef_, found.intercept_
    if len(weights) == 1:  # of two classes one row
        weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    weights = weights / deviation
    return Posterior(weights, bias - weights @ mean)


def read_labelled(shards: Manifest) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Read the features of images and of their texts, each text's image, and each image's first
    label.
    """
    reader = SampleReader(shards)
    images: list[np.ndarray] = []
    texts: list[np.ndarray] = []
    owners: list[int] = []
    labels: list[str] = []
    for number in range(len(reader)):
        try:
            image, text = reader[number].features("image"), reader[number].features("text")
            label = reader[number].label()
        except BadSample:
            continue
        assert image is not None
        assert text is not None
        owners += [len(images)] * len(text)
        images.append(image)
        texts.append(text)
        labels.append(label)
    return np.stack(images), np.concatenate(texts), np.array(owners), np.array(labels)
