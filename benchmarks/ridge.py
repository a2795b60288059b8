"""Ridge regression from a source and its text to the target: the baseline of the study `composed`.

Features are brought to length 1 and centred; y is predicted as W [x; t], as a `tirg` method whose
composition is W: it is measured by the same code, on the same features, as what is trained. The
penalty is that with the greatest recall@1 on a tenth of the training queries, which is held
out for this choice, with all queries that share an image with it.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

from xmodal.assembly.data import Shards
from xmodal.data.batch import Batch
from xmodal.data.decode import BadSample
from xmodal.data.manifest import Manifest
from xmodal.data.reader import SampleReader
from xmodal.methods.method import Method
from xmodal.methods.tirg import Tirg
from xmodal.models.heads.mlp import Unit

# Times the mean eigenvalue of the inputs' covariance.
PENALTIES = tuple(10.0**power for power in np.arange(-3, 2.5, 0.5))


class Features(NamedTuple):
    """Features of queries and of the targets that they ask for."""

    sources: Tensor  # (queries, features)
    texts: Tensor  # (queries, features)
    targets: Tensor  # (queries, features)
    ids: np.ndarray  # (queries, 2) int64, of each source and target, from 0 on

    def of(self, chosen: np.ndarray) -> "Features":
        """Return those of some queries."""
        rows = torch.from_numpy(chosen.nonzero()[0])
        return Features(self.sources[rows], self.texts[rows], self.targets[rows], self.ids[chosen])


class Regression(nn.Module):
    """f = W [φ_x; φ_t], in the place of a composition."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.layer = nn.Linear(weights.shape[1], weights.shape[0], bias=False)
        self.layer.weight.data.copy_(weights)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Return f (batch, dim) of φ_x (batch, dim) and φ_t (batch, text dim)."""
        predicted: Tensor = self.layer(torch.cat([image, text], 1))
        return predicted


def fit_ridge(method: Method, shards: Shards) -> str:
    """Fit a `tirg` method to the features of its training queries; return a line about it."""
    assert isinstance(method, Tirg)
    (queries,) = shards.train
    return f"ridge regression: penalty {fit(method, read_features(queries)):g}"


def fit(method: Tirg, features: Features) -> float:
    """Set a method to the regression with the best of the penalties, and return that penalty."""
    held_out = a_tenth(features.ids)
    kept, rest = features.of(~held_out), features.of(held_out)
    tried = {}
    for penalty in PENALTIES:
        set_regression(method, kept, penalty)
        tried[penalty] = recall(method, rest)
    best = max(tried, key=lambda penalty: tried[penalty])
    set_regression(method, features, best)
    return best


def set_regression(method: Tirg, features: Features, penalty: float) -> None:
    """Set a method's heads to centre features, and its composition to the regression."""
    sources, texts, targets = (nn.functional.normalize(side, dim=1) for side in features[:3])
    image_mean, text_mean = torch.cat([sources, targets]).mean(0), texts.mean(0)
    method.image.head, method.text.head = _centred(image_mean), _centred(text_mean)
    inputs = torch.cat([sources - image_mean, texts - text_mean], 1).double()
    method.fusion = Regression(regress(inputs, (targets - image_mean).double(), penalty))


def regress(inputs: Tensor, outputs: Tensor, penalty: float) -> Tensor:
    """Return W (dim, features) of the least |Y − X Wᵀ|² / n + p |W|², p relative to X's spread."""
    covariance = inputs.T @ inputs / len(inputs)
    covariance.diagonal().add_(penalty * covariance.trace() / len(covariance))
    return torch.linalg.solve(covariance, inputs.T @ outputs / len(inputs)).T


def a_tenth(ids: np.ndarray) -> np.ndarray:
    """Return a mask of the queries to hold out, (queries,) bool: every tenth group of images.

    Images of one group are sources and targets of each other.
    """
    count = ids.max() + 1
    links = coo_matrix((np.ones(len(ids)), (ids[:, 0], ids[:, 1])), shape=(count, count))
    _, group = connected_components(links, directed=False)
    held_out: np.ndarray = group[ids[:, 0]] % 10 == 0
    return held_out


@torch.no_grad()
def recall(method: Tirg, features: Features) -> float:
    """Return the share of queries that find their targets, among their sources and targets."""
    ids, first = np.unique(features.ids.T, return_index=True)
    images = torch.cat([features.sources, features.targets])[torch.from_numpy(first)]
    found = method.encode(
        Batch(
            image_features=features.sources,
            text_features=features.texts,
            target_features=images,
        )
    )
    assert found.queries is not None
    assert found.targets is not None
    scores = found.queries @ found.targets.T
    sources, targets = torch.from_numpy(np.searchsorted(ids, features.ids)).T
    scores.scatter_(1, sources[:, None], -torch.inf)
    return (scores.argmax(1) == targets).float().mean().item()


def read_features(shards: Manifest) -> Features:
    """Read all features of a shard set of queries."""
    reader = SampleReader(shards)
    rows: list[list[np.ndarray]] = []
    names: list[tuple[str, str]] = []
    for number in range(len(reader)):
        sample = reader[number]
        try:
            source, text, target = (sample.features(s) for s in ("source", "text", "target"))
        except BadSample:
            continue
        assert source is not None
        assert text is not None
        assert target is not None
        rows.append([source, text[0], target])
        names.append((sample.source_id, str(sample.target_id)))
    sources, texts, targets = (torch.from_numpy(np.stack(side)) for side in zip(*rows, strict=True))
    _, ids = np.unique(names, return_inverse=True)
    return Features(sources, texts, targets, ids.reshape(-1, 2))


def _centred(mean: Tensor) -> nn.Sequential:
    layer = nn.Linear(len(mean), len(mean))
    layer.weight.data.copy_(torch.eye(len(mean)))
    layer.bias.data.copy_(-mean)
    return nn.Sequential(Unit(), layer)
