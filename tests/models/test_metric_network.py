"""The metric network against one layer on the parts side by side, a pair at a time."""

import pytest
import torch
from torch import Tensor

from xmodal.models import metric_network
from xmodal.models.metric_network import MetricNetwork

DIM, HIDDEN = 5, (7, 4)
BOTH = pytest.mark.parametrize("interactions", [False, True])


def network(*, interactions: bool) -> MetricNetwork:
    torch.manual_seed(0)
    return MetricNetwork(DIM, HIDDEN, interactions=interactions).double()


def embeddings() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(2, 6, DIM, generator=generator, dtype=torch.float64)
    return images, texts[:4]


def by_hand(net: MetricNetwork, image: Tensor, text: Tensor) -> Tensor:
    """Logits of one pair."""
    seen = torch.cat([image, text, (image - text).abs(), image * text][: 2 + len(net.of_pair)])
    parts = [net.of_image, net.of_text, *net.of_pair]
    first = torch.cat([part.weight for part in parts], 1) @ seen + net.of_image.bias
    second = net.layers[1].weight @ first.relu() + net.layers[1].bias
    return net.last.weight @ second.relu() + net.last.bias


def gradients(net: MetricNetwork, values: Tensor) -> list[Tensor]:
    weights = torch.arange(1.0, values.numel() + 1).view(values.shape)
    return list(torch.autograd.grad((values * weights).sum(), list(net.parameters())))


def assert_equal(net: MetricNetwork, got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    for ours, theirs in zip(gradients(net, got), gradients(net, expected), strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@BOTH
def test_logits_of_pairs(*, interactions: bool) -> None:
    net = network(interactions=interactions)
    images, texts = embeddings()
    got = net(images[:4], texts)
    assert got.shape == (4, 2)
    pairs = zip(images[:4], texts, strict=True)
    assert_equal(net, got, torch.stack([by_hand(net, *pair) for pair in pairs]))


@BOTH
@pytest.mark.parametrize("cells", [1, 30, 2**24])
def test_all_pairs_are_the_log_odds_of_each(
    cells: int, monkeypatch: pytest.MonkeyPatch, *, interactions: bool
) -> None:
    monkeypatch.setattr(metric_network, "CELLS", cells)
    net = network(interactions=interactions)
    images, texts = embeddings()
    got = net.all_pairs(images, texts)
    assert got.shape == (6, 4)
    logs = [[by_hand(net, v, t).log_softmax(0) for t in texts] for v in images]
    odds = torch.stack([torch.stack([log[1] - log[0] for log in row]) for row in logs])
    assert_equal(net, got, odds)


@BOTH
def test_no_more_than_a_tile_is_computed_at_a_time(
    monkeypatch: pytest.MonkeyPatch, *, interactions: bool
) -> None:
    cells = 16 * 9  # tiles of 3 × 3, or 4 × 4 of 7 numbers each
    monkeypatch.setattr(metric_network, "CELLS", cells)
    net = network(interactions=interactions)
    seen = []
    for layer in net.modules():
        layer.register_forward_hook(lambda _, __, out: seen.append(out.numel()))
    net.all_pairs(torch.randn(40, DIM).double(), torch.randn(30, DIM).double())
    assert cells / 2 < max(seen[2:]) <= cells  # the first two are of the items themselves
    assert sum(seen) > 40 * 30


def test_sure_pairs_are_still_told_apart() -> None:
    net = network(interactions=False).float()
    images, texts = (side.float() for side in embeddings())
    unsure = net.all_pairs(images, texts)
    with torch.no_grad():
        for parameter in net.last.parameters():
            parameter.mul_(1e4)
    sure = net.all_pairs(images, texts)
    torch.testing.assert_close(sure, 1e4 * unsure, rtol=1e-4, atol=0.1)
    assert len(sure.unique()) == len(unsure.unique()) > len(sure.sigmoid().unique())


@BOTH
def test_the_first_layer_begins_as_one_layer_on_all_parts(*, interactions: bool) -> None:
    torch.manual_seed(0)
    net = MetricNetwork(64, (256, 8), interactions=interactions)
    bound = (64 * (4 if interactions else 2)) ** -0.5
    for layer in (net.of_image, net.of_text, *net.of_pair):
        assert 0.99 * bound < layer.weight.abs().max() <= bound
    assert sum(part.bias is not None for part in (net.of_image, net.of_text, *net.of_pair)) == 1


@BOTH
def test_every_parameter_has_a_dimension(*, interactions: bool) -> None:
    assert all(p.ndim for p in network(interactions=interactions).parameters())


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_no_items_make_no_pairs(shape: tuple[int, int]) -> None:
    net = network(interactions=True)
    images, texts = (torch.zeros(n, DIM, dtype=torch.float64) for n in shape)
    assert net.all_pairs(images, texts).shape == shape
