"""Modality gap: distance between the clouds of images and of texts (Liang et al. 2022).

Measured of pairs: an image and its first caption, all embeddings scaled to length 1. Where an item
has several embeddings, senses, all of them are points of its cloud, and the cosine of two items is
that of their most alike senses.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xmodal.evaluation.gallery import Gallery

LOWER_IS_BETTER = (
    *("centroid_distance", "paired_cosine", "probe_accuracy", "mmd"),
    *("alignment", "uniformity", "rmg"),
)
POINTS = 2000  # of each side at most; senses count


def gap_metrics(gallery: Gallery, protocol: str = "gap") -> dict[str, float]:
    """Name and number of every measure of the modality gap.

    `P/centroid_distance`, `P/paired_cosine`, `P/probe_accuracy` (percent; 50: the
    sides cannot be separated), `P/mmd`, `P/alignment`, `P/uniformity`, `P/rmg`, and `P/pairs`, the
    number of pairs: at most 2,000, spread evenly. Needs two pairs at least.
    """
    images, texts = pairs_of(gallery)
    a, b = images.flatten(0, 1), texts.flatten(0, 1)
    paired = paired_cosines(images, texts)
    metrics = {
        "centroid_distance": float((a.mean(0) - b.mean(0)).norm()),
        "paired_cosine": float(paired.mean()),
        "probe_accuracy": 100 * probe_accuracy(images, texts),
        "mmd": mmd(a, b),
        "alignment": float((2 - 2 * paired).mean()),
        "uniformity": (uniformity(a) + uniformity(b)) / 2,
        "rmg": relative_gap(images, texts),
        "pairs": float(len(images)),
    }
    return {f"{protocol}/{name}": value for name, value in metrics.items()}


def pairs_of(gallery: Gallery) -> tuple[Tensor, Tensor]:
    """Return images and their first captions, (pairs, senses, dim) float64 of length 1, on the CPU.

    A method without senses has one.
    """
    total = len(gallery.images)
    senses = gallery.images[0].numel() // gallery.images.shape[-1]
    count = min(total, POINTS // senses)
    rows = torch.arange(count, device=gallery.owners.device) * total // count
    first = torch.searchsorted(gallery.owners, rows)
    sides = gallery.images[rows], gallery.texts[first]
    images, texts = (
        F.normalize(s.double().cpu().view(count, -1, s.shape[-1]), dim=-1) for s in sides
    )
    return images, texts


def paired_cosines(images: Tensor, texts: Tensor) -> Tensor:
    """Return the cosine (pairs,) of each image (pairs, senses, dim) with its text."""
    return (images @ texts.mT).amax((1, 2))


def probe_accuracy(images: Tensor, texts: Tensor) -> float:
    """Return the accuracy of a linear classifier of images and texts, on pairs it has not seen.

    Logistic regression on standardised embeddings of every other pair, judged on the others.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def points(first: int) -> tuple[np.ndarray, np.ndarray]:
        sides = [side[first::2].flatten(0, 1).numpy() for side in (images, texts)]
        return np.concatenate(sides), np.repeat([0, 1], [len(side) for side in sides])

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return float(probe.fit(*points(0)).score(*points(1)))


def mmd(a: Tensor, b: Tensor) -> float:
    """Return MMD² of points (n, dim) and (m, dim): 0 where their distributions are the same.

    mean k(a, a′) − 2 mean k(a, b) + mean k(b, b′), all pairs counted, which is never below 0
    (Gretton et al. 2012, equation 5). k = exp(−d² / 2σ²), σ the median distance of two points.
    """
    points = torch.cat([a, b])
    median = torch.pdist(points).median().clamp(min=1e-12)
    kernel = torch.cdist(points, points).div_(median).square_().div_(-2).exp_()
    n = len(a)
    return float(kernel[:n, :n].mean() - 2 * kernel[:n, n:].mean() + kernel[n:, n:].mean())


def uniformity(points: Tensor) -> float:
    """Return log mean exp(−2 d²) of all pairs of points (n, dim), low where they are spread out
    (Wang and Isola 2020, arXiv 2005.10242).
    """
    squares = torch.pdist(points).square()
    return float(torch.logsumexp(-2 * squares, 0)) - math.log(len(squares))


def relative_gap(images: Tensor, texts: Tensor) -> float:
    """Return the relative modality gap of pairs (n, senses, dim): across / (across + within)
    (Schrodi et al. 2025, arXiv 2404.07983).

    `across` is the mean distance δ = (1 − cos) / 2 of an image and its text, `within` that of two
    images or two texts: Σᵢ≠ⱼ [δ(vᵢ, vⱼ) + δ(tᵢ, tⱼ)] / 2n(n − 1).
    """
    across = float((1 - paired_cosines(images, texts)).mean() / 2)
    within = (_distance_within(images) + _distance_within(texts)) / 2
    return across / max(across + within, 1e-9)  # all in one point is no gap


def _distance_within(items: Tensor) -> float:
    """Return the mean δ of two different items of (n, senses, dim); of one with itself it is 0."""
    n, senses, _ = items.shape
    total = 0.0
    for block in items.split(max(1, POINTS // senses**2)):
        cosines = torch.einsum("akd,bld->abkl", block, items).amax((2, 3))
        total += float((1 - cosines).sum() / 2)
    return total / (n * (n - 1))
