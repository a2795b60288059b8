"""Measures of the modality gap against scikit-learn, SciPy, plain loops and cases by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import pdist
from sklearn.metrics.pairwise import rbf_kernel
from torch import Tensor

from xmodal.evaluation.gallery import Gallery
from xmodal.evaluation.metrics.gap import (
    gap_metrics,
    mmd,
    pairs_of,
    probe_accuracy,
    relative_gap,
    uniformity,
)


def gallery(images: Tensor, texts: Tensor, captions: int = 1) -> Gallery:
    numbers = torch.arange(len(images))
    owners = numbers.repeat_interleave(captions)
    return Gallery(numbers, numbers, images, owners, texts, [[]] * len(images))


def points(count: int, *shape: int, seed: int = 0) -> Tensor:
    """Random directions, (count, …)."""
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, *shape, generator=generator, dtype=torch.float64), dim=-1)


def test_a_case_by_hand() -> None:
    # Texts lie a quarter turn from their images, whose two directions are a quarter turn apart.
    images = torch.tensor([[3.0, 0.0, 0.0, 0.0], [0.0, 0.5, 0.0, 0.0]])
    texts = torch.tensor([[0.0, 0.0, 2.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    metrics = gap_metrics(gallery(images, texts))
    assert metrics["gap/centroid_distance"] == pytest.approx(1)  # (½, ½, −½, −½)
    assert metrics["gap/paired_cosine"] == pytest.approx(0)
    assert metrics["gap/alignment"] == pytest.approx(2)
    assert metrics["gap/uniformity"] == pytest.approx(-4)
    assert metrics["gap/rmg"] == pytest.approx(0.5)
    # All distances are the median √2: k = exp(−½), and 1 with itself, of which half are.
    assert metrics["gap/mmd"] == pytest.approx(1 - math.exp(-1 / 2))
    assert metrics["gap/pairs"] == 2


def test_there_is_no_gap_between_equal_clouds() -> None:
    same = points(300, 8)
    metrics = gap_metrics(gallery(same, same.clone()))
    assert metrics["gap/paired_cosine"] == pytest.approx(1)
    for name in ("centroid_distance", "mmd", "alignment", "rmg"):
        assert metrics[f"gap/{name}"] == pytest.approx(0, abs=1e-12)
    assert metrics["gap/probe_accuracy"] == 50


def test_all_in_one_point_is_no_gap_and_no_error() -> None:
    metrics = gap_metrics(gallery(torch.ones(10, 3), torch.ones(10, 3)))
    assert all(map(math.isfinite, metrics.values()))
    for name in ("mmd", "rmg", "uniformity"):
        assert metrics[f"gap/{name}"] == pytest.approx(0, abs=1e-6)


def test_mmd_is_that_of_scikit_learns_kernel() -> None:
    a, b = points(40, 5).numpy(), points(60, 5, seed=1).numpy() + 0.3
    distances = np.sort(pdist(np.concatenate([a, b])))
    gamma = 1 / (2 * distances[(len(distances) - 1) // 2] ** 2)
    expected = (
        rbf_kernel(a, a, gamma).mean()
        - 2 * rbf_kernel(a, b, gamma).mean()
        + rbf_kernel(b, b, gamma).mean()
    )
    assert mmd(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(expected, rel=1e-9)


def test_uniformity_is_the_log_of_a_mean_over_all_pairs() -> None:
    cloud = points(50, 7)
    expected = np.log(np.exp(-2 * pdist(cloud.numpy()) ** 2).mean())
    assert uniformity(cloud) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("senses", [1, 3])
def test_the_relative_gap_is_its_sum_over_pairs(senses: int) -> None:
    images, texts = points(30, senses, 6), points(30, senses, 6, seed=1)
    texts = F.normalize(texts + images, dim=-1)

    def distance(one: Tensor, other: Tensor) -> float:
        return float(min((1 - a @ b) / 2 for a in one for b in other))

    across = sum(map(distance, images, texts)) / 30
    within = sum(
        distance(side[i], side[j])
        for side in (images, texts)
        for i in range(30)
        for j in range(30)
        if i != j
    )
    within /= 2 * 30 * 29
    assert relative_gap(images, texts) == pytest.approx(across / (across + within), rel=1e-9)


def test_the_probe_tells_clouds_apart_where_they_are() -> None:
    images, texts = points(400, 1, 8), points(400, 1, 8, seed=1)
    assert 0.4 < probe_accuracy(images, texts) < 0.6
    assert probe_accuracy(images + 1, texts) > 0.99
    # Where they differ is learned on one half and judged on the other: here it is the reverse.
    swapped = torch.arange(400)[:, None, None] % 2 == 0
    left, right = torch.where(swapped, images + 5, texts), torch.where(swapped, texts, images + 5)
    assert probe_accuracy(left, right) < 0.01


def test_pairs_are_images_and_first_captions_spread_evenly() -> None:
    images = torch.arange(1.0, 5002.0)[:, None] * torch.tensor([0.0, 2.0])
    texts = torch.zeros(3 * 5001, 2)
    texts[::3, 0] = 7
    a, b = pairs_of(gallery(images, texts, captions=3))
    assert a.shape == b.shape == (2000, 1, 2)
    assert torch.equal(a[:, 0], torch.tensor([[0.0, 1.0]], dtype=torch.float64).expand(2000, 2))
    assert torch.equal(b[:, 0], torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(2000, 2))
    numbered = torch.stack([torch.arange(5001.0), torch.ones(5001)], 1)
    chosen = pairs_of(gallery(numbered, numbered))[0][:, 0]
    rows = (chosen[:, 0] / chosen[:, 1]).round().long()
    assert rows.tolist() == [n * 5001 // 2000 for n in range(2000)]


def test_senses_are_points_and_the_most_alike_are_compared() -> None:
    images = torch.eye(4)[None, :2].expand(5, 2, 4)  # of each item two senses
    texts = torch.eye(4)[None, 1:3].expand(5, 2, 4)
    metrics = gap_metrics(gallery(images, texts))
    assert metrics["gap/paired_cosine"] == 1
    assert metrics["gap/centroid_distance"] == pytest.approx(math.sqrt(1 / 2))
    assert metrics["gap/pairs"] == 5
    assert pairs_of(gallery(torch.ones(900, 3, 2), torch.ones(900, 3, 2)))[0].shape == (666, 3, 2)
