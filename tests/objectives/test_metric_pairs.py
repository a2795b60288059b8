import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.objectives.metric_pairs_cases import comparison
from tests.processes import on_ranks
from xmodal.distributed.collectives import rank
from xmodal.objectives.metric_pairs import MetricPairs


def metric_pairs(**given: Any) -> MetricPairs:
    return MetricPairs(**given)


class Times(nn.Module):
    """Finds a pair similar by its product; remembers the pairs."""

    def forward(self, images: Tensor, texts: Tensor) -> Tensor:
        self.images, self.texts = images.detach(), texts.detach()
        half = (images * texts).sum(1) / 2
        return torch.stack([-half, half], 1)


# Two pairs of two labels: each item has one similar partner, its own, and one dissimilar.
IMAGES, TEXTS = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [-1.0]])
LABELS = torch.arange(2)
# f of similar pairs is 3 and −2, of dissimilar ones −1 and 6; each pair is met from both ends.
SIGNED = torch.tensor([3.0, -2.0, 1.0, -6.0])


@pytest.mark.parametrize("count", [1, 4])
def test_values_by_hand(count: int) -> None:
    loss = metric_pairs(count=count)
    value = loss(IMAGES, TEXTS, LABELS, Times(), 0)
    torch.testing.assert_close(value, nn.functional.softplus(-SIGNED).mean())
    assert loss.monitors["metric_accuracy"] == 0.5
    hinge = metric_pairs(count=count, loss="hinge")(IMAGES, TEXTS, LABELS, Times(), 0)
    assert hinge == (0 + 3 + 0 + 7) / 4


def test_images_come_first_and_as_many_pairs_are_similar_as_not() -> None:
    images, texts = torch.arange(12.0)[:, None], 100 + torch.arange(12.0)[:, None]
    labels, network = torch.arange(12) % 3, Times()
    metric_pairs(count=3)(images, texts, labels, network, 0)
    assert (network.images < 100).all()
    assert (network.texts >= 100).all()
    alike = network.images.long() % 3 == (network.texts.long() - 100) % 3
    assert len(alike) == 2 * 12 * 3 * 2
    assert alike.sum() == len(alike) / 2
    assert alike[: len(alike) // 2].all()


def test_a_network_that_cannot_tell_costs_log_two() -> None:
    loss = metric_pairs()
    value = loss(torch.zeros(2, 1), torch.zeros(2, 1), LABELS, Times(), 0)
    assert value.item() == pytest.approx(math.log(2))
    assert loss.monitors["metric_accuracy"] == 0.5


def test_the_pairs_follow_the_seed() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(2, 12, 7, dtype=torch.float64)
    network, labels = comparison(), torch.arange(12) % 3
    first, again, other = (network.objective(x, y, labels, network, seed) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("loss", ["cross_entropy", "hinge"])
def test_the_network_learns_what_no_distance_says(loss: str) -> None:
    """Images and texts of the same label lie on opposite sides."""
    torch.manual_seed(0)
    labels = torch.arange(30) % 3
    x = nn.functional.one_hot(labels, 7).double() + 0.1 * torch.randn(30, 7).double()
    network = comparison(loss=loss)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.05)
    for step in range(100):
        optimiser.zero_grad()
        network.objective(x, -x.roll(3, 0), labels, network, step).backward()
        optimiser.step()
    assert network.objective.monitors["metric_accuracy"] > 0.95


def of_rank() -> dict[str, Any]:
    """Gradients and accuracy where the second rank has no rows."""
    rows = slice(None) if rank() == 0 else slice(0, 0)
    x, y = torch.randn(2, 6, 7, generator=torch.Generator().manual_seed(0)).double()
    leaf, network = x[rows].clone().requires_grad_(), comparison()
    network.objective(leaf, y[rows], torch.arange(6)[rows] % 2, network, 0).backward()
    return {
        "gradients": [parameter.grad for parameter in network.parameters()],
        "accuracy": network.objective.monitors["metric_accuracy"].item(),
        "of x": leaf.grad,
    }


def test_a_rank_without_rows_has_gradients_of_zero_and_the_accuracy_of_all() -> None:
    alone = of_rank()
    first, second = on_ranks(2, of_rank)
    assert first["accuracy"] == second["accuracy"] == alone["accuracy"] > 0
    for gradient in second["gradients"]:
        assert gradient is not None
        assert not gradient.any()
    for got, expected in zip(first["gradients"], alone["gradients"], strict=True):
        torch.testing.assert_close(got / 2, expected)
    torch.testing.assert_close(first["of x"] / 2, alone["of x"])
    assert second["of x"].shape == (0, 7)
