import math
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.processes import on_ranks
from xmodal.distributed.collectives import rank, world_size
from xmodal.objectives.info_nce import InfoNCE

PAIRS, DIM = 24, 7


@dataclass
class Pairs:
    """A global batch in float64."""

    images: Tensor  # (pairs, dim), of length 1
    texts: Tensor  # (pairs, dim), of length 1
    ids: Tensor  # (pairs,) int64

    @property
    def all(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.images, self.texts, self.ids


@dataclass
class Result:
    """A loss and its gradients."""

    loss: Tensor
    images: Tensor
    texts: Tensor
    log_scale: Tensor


def unit(rows: Tensor) -> Tensor:
    return F.normalize(rows.double(), dim=-1)


def random_pairs(seed: int = 0) -> Pairs:
    generator = torch.Generator().manual_seed(seed)
    images, texts = torch.randn(2, PAIRS, DIM, generator=generator, dtype=torch.float64)
    return Pairs(unit(images), unit(images + texts), torch.arange(PAIRS) - 2**62)


def with_duplicates() -> Pairs:
    """Images that come two and three times with other captions: in one rank's part and in two."""
    pairs = random_pairs(1)
    for place, again in ((0, 1), (3, 4), (3, 20), (7, 23)):
        pairs.ids[again], pairs.images[again] = pairs.ids[place], pairs.images[place]
    return pairs


def half_matched() -> Pairs:
    """Pairs of which some ask for a greater scale and some for a smaller one."""
    pairs = random_pairs(2)
    pairs.texts[: PAIRS // 2] = pairs.images[: PAIRS // 2]
    return pairs


def naive(pairs: Pairs, log_scale: float, max_scale: float) -> Result:
    """The loss as it is written (Radford et al. 2021), of the full matrix, other captions of an
    image skipped, with plain autograd."""
    x, y = pairs.images.clone().requires_grad_(), pairs.texts.clone().requires_grad_()
    a = torch.tensor(min(log_scale, math.log(max_scale)), dtype=torch.float64, requires_grad=True)
    same = pairs.ids[:, None] == pairs.ids[None]
    counted = (~same | torch.eye(len(x), dtype=torch.bool)).double()
    e = (a.exp() * x @ y.T).exp() * counted
    rows = -(e.diag() / e.sum(1)).log().mean()
    columns = -(e.diag() / e.sum(0)).log().mean()
    loss = (rows + columns) / 2
    loss.backward()
    # At the limit the scale may come down but not go up.
    stays = log_scale >= math.log(max_scale) and a.grad < 0
    return Result(loss.detach(), x.grad, y.grad, torch.zeros(1) if stays else a.grad[None])


def objective(scale: float, max_scale: float = 100.0) -> InfoNCE:
    loss = InfoNCE(scale=scale, max_scale=max_scale).double()
    torch.testing.assert_close(loss.log_scale.item(), math.log(scale), rtol=1e-6, atol=0)
    loss.log_scale.data.fill_(math.log(scale))  # the parameter began in single precision
    return loss


def share(pairs: Pairs, scale: float, max_scale: float) -> Result:
    """What this rank makes of its rows of the batch."""
    loss = objective(scale, max_scale)
    size = len(pairs.ids) // world_size()
    rows = slice(rank() * size, (rank() + 1) * size)
    x, y = pairs.images[rows].requires_grad_(), pairs.texts[rows].requires_grad_()
    value = loss(x, y, pairs.ids[rows])
    value.backward()
    return Result(value.detach(), x.grad, y.grad, loss.log_scale.grad)


def together(shares: list[Result]) -> Result:
    """The value and gradients that training makes of shares: means over ranks. What an embedding
    passes on to the weights is divided by the ranks with the weights' own gradient."""
    ranks = len(shares)
    return Result(
        sum(one.loss for one in shares) / ranks,
        torch.cat([one.images for one in shares]) / ranks,
        torch.cat([one.texts for one in shares]) / ranks,
        sum(one.log_scale for one in shares) / ranks,
    )


def assert_equal(got: Result, expected: Result) -> None:
    for name, value in vars(expected).items():
        difference = (getattr(got, name) - value).abs().max()
        assert difference <= 1e-10 * value.abs().max(), f"{name} differs by {difference}"


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize(
    ("pairs", "scale", "max_scale"),
    [
        pytest.param(random_pairs(), 1 / 0.07, 100.0, id="random"),
        pytest.param(with_duplicates(), 5.0, 100.0, id="duplicates"),
        pytest.param(random_pairs(), 100.0, 100.0, id="at the limit, back"),
        pytest.param(half_matched(), 1.0, 1.0, id="at the limit, further"),
        pytest.param(half_matched(), 250.0, 100.0, id="above the limit, back"),
        pytest.param(half_matched(), 2.0, 1.0, id="above the limit, further"),
    ],
)
def test_value_and_gradients_are_those_of_the_formula(
    pairs: Pairs, scale: float, max_scale: float, ranks: int
) -> None:
    shares = on_ranks(ranks, share, pairs, scale, max_scale)
    assert_equal(together(shares), naive(pairs, math.log(scale), max_scale))


def test_the_cases_above_the_limit_are_what_they_say() -> None:
    def gradient(rows: slice, limit: float) -> float:
        pairs = half_matched()
        part = Pairs(pairs.images[rows], pairs.texts[rows], pairs.ids[rows])
        return float(naive(part, math.log(limit) - 1e-12, limit).log_scale)

    everything, matched, others = slice(None), slice(0, 12), slice(12, 24)
    assert gradient(everything, 100) > 0
    assert gradient(everything, 1) < 0
    assert gradient(matched, 100) < 0 < gradient(others, 100)


def test_the_scale_is_what_the_recipe_says_at_most() -> None:
    loss = objective(scale=30.0, max_scale=50.0)
    torch.testing.assert_close(loss.scale.item(), 30.0, rtol=1e-6, atol=0)
    loss.log_scale.data.fill_(9.0)
    torch.testing.assert_close(loss.scale.item(), 50.0)
    loss(*random_pairs().all)
    torch.testing.assert_close(loss.monitors["temperature"].item(), 1 / 50)


def test_a_scale_that_stepped_over_the_limit_comes_back() -> None:
    loss = objective(scale=200.0, max_scale=100.0)
    optimiser = torch.optim.SGD(loss.parameters(), lr=0.1)
    for _ in range(50):
        optimiser.zero_grad()
        loss(*half_matched().all).backward()
        optimiser.step()
    assert loss.scale < 100


@pytest.mark.parametrize("size", [1, 2, 24])
def test_embeddings_that_are_all_equal_cost_log_of_the_batch(size: int) -> None:
    same = unit(torch.ones(size, DIM)).requires_grad_()
    value = objective(scale=100.0)(same, same.detach(), torch.arange(size))
    value.backward()
    torch.testing.assert_close(value.item(), math.log(size), rtol=1e-6, atol=1e-6)
    assert same.grad.isfinite().all()


def test_what_tells_nothing_apart_costs_log_of_the_batch() -> None:
    value = objective(scale=1e-7)(*random_pairs().all)
    torch.testing.assert_close(value.item(), math.log(PAIRS), rtol=1e-6, atol=0)


def test_pairs_found_without_doubt_cost_nothing() -> None:
    corners = torch.eye(PAIRS, dtype=torch.float64)
    assert objective(scale=100.0)(corners, corners, torch.arange(PAIRS)) < 1e-12


def test_captions_of_one_image_alone_are_no_negatives() -> None:
    images, texts, ids = random_pairs().all
    images.requires_grad_()
    value = objective(scale=10.0)(images, texts, torch.zeros_like(ids))
    value.backward()
    assert value == 0
    assert not images.grad.any()


def test_single_precision_is_near_at_the_greatest_scale() -> None:
    pairs = with_duplicates()
    single = InfoNCE(scale=100.0)(pairs.images.float(), pairs.texts.float(), pairs.ids)
    exact = naive(pairs, math.log(100.0), 1e9).loss
    torch.testing.assert_close(single.item(), exact.item(), rtol=1e-5, atol=0)
