import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.objectives.equivalence import assert_equal, differentiate
from tests.objectives.mutual_information_cases import (
    LOG_AVERAGE,
    naive,
    naive_of_positions,
    share,
)
from tests.processes import on_ranks
from xmodal.distributed.collectives import rank, world_size
from xmodal.objectives.mutual_information import (
    MutualInformation,
    SampledMutualInformation,
    next_of_another_id,
)
from xmodal.objectives.pairwise import total_log_sum_exp
from xmodal.objectives.pairwise.cells import softplus

ESTIMATORS = ["jsd", "dv", "nwj", "info_nce"]
# How often each of three symbols of x comes with each of y: a joint distribution.
COUNTS = torch.tensor([[9, 2, 1], [2, 6, 2], [1, 3, 14]])


def objective(estimator: str, **given: object) -> MutualInformation:
    given = {"moving_average": None} | given
    return MutualInformation(estimator=estimator, **given).double()


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def known() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """P and Q of a joint distribution, and pairs in just those proportions, x as one-hot.

    Q is that of pairs of two items: no item is drawn with itself.
    """
    size = COUNTS.sum()
    p = COUNTS.double() / size
    q = (COUNTS.sum(1)[:, None] * COUNTS.sum(0) - COUNTS).double() / (size * (size - 1))
    cells = torch.arange(9).repeat_interleave(COUNTS.flatten())
    a, b = cells // 3, cells % 3
    return p, q, F.one_hot(a, 3).double(), b


@pytest.mark.parametrize("estimator", ["jsd", "dv", "nwj"])
def test_the_best_critic_gives_the_true_divergence(estimator: str) -> None:
    p, q, x, b = known()
    ratio = (p / q).log() + (1 if estimator == "nwj" else 0)
    estimate = -objective(estimator)(x, ratio[:, b].T.contiguous(), torch.arange(len(x)))
    mixture = (p + q) / 2
    kl = (p * (p / q).log()).sum()
    js = ((p * (p / mixture).log()).sum() + (q * (q / mixture).log()).sum()) / 2
    truth = 2 * js if estimator == "jsd" else kl
    torch.testing.assert_close(estimate, truth, rtol=1e-12, atol=0)


@pytest.mark.parametrize("estimator", ["jsd", "dv", "nwj"])
def test_another_critic_gives_less(estimator: str) -> None:
    p, q, x, b = known()
    ratio = (p / q).log() + (1 if estimator == "nwj" else 0)
    ids = torch.arange(len(x))
    best, other = (
        -objective(estimator)(x, table[:, b].T.contiguous(), ids)
        for table in (ratio, ratio + 0.3 * drawn(3, 3))
    )
    assert other < best - 1e-3


@pytest.mark.parametrize("symbols", [2, 5])
def test_info_nce_gives_the_information_of_symbols_that_are_the_same(symbols: int) -> None:
    same = 100 * F.one_hot(torch.arange(20) % symbols).double()
    estimate = -objective("info_nce")(same, same, torch.arange(20))
    torch.testing.assert_close(estimate.item(), math.log(symbols), rtol=1e-12, atol=0)


def test_info_nce_is_less_than_log_of_the_batch() -> None:
    x = 100 * F.normalize(drawn(16, 5), dim=1)
    estimate = -objective("info_nce")(x, x, torch.arange(16))
    torch.testing.assert_close(estimate.item(), math.log(16), rtol=1e-6, atol=0)


@pytest.mark.parametrize("estimator", ["jsd", "dv", "info_nce"])
def test_a_critic_that_is_blind_finds_nothing(estimator: str) -> None:
    nothing = torch.zeros(6, 4, dtype=torch.float64)
    assert abs(objective(estimator)(nothing, drawn(6, 4), torch.arange(6))) < 1e-12


def test_the_moving_average_changes_the_gradient_and_no_value() -> None:
    """MINE, equation 12: E_P[∇T] − E_Q[eᵀ ∇T] / average of E_Q[eᵀ]."""
    corrected, plain = objective("dv", moving_average=0.3), objective("dv")
    ids, off = torch.arange(6), ~torch.eye(6, dtype=torch.bool)
    average = None
    for step in range(4):
        x, y = drawn(6, 3, seed=step).requires_grad_(), (step + 1) * drawn(6, 3, seed=9 + step)
        weights = (x.detach() @ y.T).exp() * off / 30
        now = weights.sum()
        average = now if average is None else 0.7 * average + 0.3 * now
        expected = (weights / average) @ y - y / 6
        value = corrected(x, y, ids)
        (gradient,) = torch.autograd.grad(value, x)
        torch.testing.assert_close(value, plain(x, y, ids), rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(corrected.log_average.exp(), average, rtol=1e-12, atol=0)
    assert "log_average" in corrected.state_dict()  # it continues where a run resumes


def test_the_moving_average_stays_in_evaluation_and_without_negatives() -> None:
    loss = objective("dv", moving_average=0.3)
    loss.log_average.fill_(LOG_AVERAGE)
    loss(drawn(4, 3), drawn(4, 3), torch.zeros(4).long())
    loss.eval()(drawn(4, 3), drawn(4, 3), torch.arange(4))
    assert loss.log_average == torch.tensor(LOG_AVERAGE).double().fill_(LOG_AVERAGE)


def averages() -> list[float]:
    """The moving average after each of three steps on this rank's rows."""
    loss = objective("dv", moving_average=0.3)
    size = 8 // world_size()
    rows = slice(rank() * size, (rank() + 1) * size)
    seen = []
    for step in range(3):
        loss(drawn(8, 3, seed=step)[rows], drawn(8, 3, seed=9)[rows], torch.arange(8)[rows])
        seen.append(loss.log_average.item())
    return seen


def test_the_moving_average_is_the_same_on_all_ranks() -> None:
    first, second = on_ranks(2, averages)
    assert first == second
    torch.testing.assert_close(torch.tensor(first), torch.tensor(averages()))


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("positions", [0, 2])
def test_gradients_are_those_of_differences(estimator: str, positions: int) -> None:
    ids = torch.tensor([1, 2, 1, 3])
    x = drawn(4, positions, 3, seed=1) if positions else drawn(4, 3, seed=1)
    loss = objective(estimator, tile=2)
    inputs = (x.requires_grad_(), drawn(4, 3, seed=2).requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, ids), inputs)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 9),
    positions=st.integers(0, 4),
    labels=st.integers(1, 9),
    tile=st.integers(1, 12),
    estimator=st.sampled_from(ESTIMATORS),
)
def test_any_shape_and_tile(
    batch: int, positions: int, labels: int, tile: int, estimator: str
) -> None:
    loss = objective(estimator, tile=tile)
    shape = (batch, positions, 3) if positions else (batch, 3)
    inputs = {"x": drawn(*shape), "y": drawn(batch, 3, seed=1), "ids": torch.arange(batch) % labels}
    formula = naive_of_positions if positions else naive
    assert_equal(
        differentiate(share, loss, inputs), differentiate(formula, loss, inputs), where=estimator
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_map_is_its_positions(estimator: str) -> None:
    maps, y, ids = drawn(5, 3, 2, 4), drawn(5, 3, seed=1), torch.arange(5)
    positions = torch.stack([maps[:, :, h, w] for h in range(2) for w in range(4)], 1)
    loss = objective(estimator)
    torch.testing.assert_close(loss(maps, y, ids), loss(positions, y, ids))
    assert loss(maps, y, ids) != loss(maps.flip(0), y, ids)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_half_precision_is_summed_in_single(estimator: str) -> None:
    x, y = drawn(40, 8).bfloat16(), drawn(40, 8, seed=1).bfloat16()
    ids, loss = torch.arange(40), objective(estimator).float()
    assert torch.equal(loss(x, y, ids), loss(x.float(), y.float(), ids))
    exact = objective(estimator)(x.double(), y.double(), ids)
    torch.testing.assert_close(loss(x, y, ids).double(), exact, rtol=1e-5, atol=1e-5)


def test_softplus_is_exact_from_end_to_end() -> None:
    scores = torch.tensor([-torch.inf, -700, -100, -1, 0, 1, 25, 39, 41, 100, 700]).double()
    for score in scores:
        cell = softplus(score.clone().view(1, 1), *torch.zeros(2, 1, 1))
        exact = max(score.item(), 0) + math.log1p(math.exp(-abs(score)))
        slope = math.exp(min(score, 0)) / (1 + math.exp(-abs(score)))
        assert cell.value.item() == pytest.approx(exact, rel=1e-15, abs=0)
        assert cell.slopes.item() == pytest.approx(slope, rel=1e-14, abs=0)


@pytest.mark.parametrize("order", ["rising", "falling"])
def test_the_total_holds_where_scores_rise_beyond_single_precision(order: str) -> None:
    x = torch.linspace(-3, 3, 40)[:, None] * (1 if order == "rising" else -1)
    x = torch.cat([x, torch.ones(40, 1)], 1).requires_grad_()
    y = torch.tensor([[100.0, -150.0], [90.0, 0.0], [100.0, 0.0], [-5.0, 0.0]]).requires_grad_()
    total = total_log_sum_exp(x, y, tile=3)
    gradients = torch.autograd.grad(total, (x, y))
    a, b = (side.detach().double().requires_grad_() for side in (x, y))
    exact = (a @ b.T).flatten().logsumexp(0)
    torch.testing.assert_close(total.double(), exact, rtol=1e-6, atol=0)
    for got, expected in zip(gradients, torch.autograd.grad(exact, (a, b)), strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-5)


def test_the_total_of_no_negatives_has_no_gradient() -> None:
    x = drawn(3, 2).requires_grad_()
    total = total_log_sum_exp(x, drawn(3, 2), (torch.zeros(3).long(), torch.zeros(3).long()))
    assert total == -torch.inf
    total.backward()
    assert not x.grad.any()


def test_the_total_keeps_no_more_than_gradients_of_its_sides() -> None:
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: saved.append(tensor.numel()), lambda _: None
    ):
        total_log_sum_exp(drawn(60, 2).requires_grad_(), drawn(50, 2).requires_grad_(), tile=7)
    assert sorted(saved) == [1, 100, 120]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=12))
def test_partners_are_the_next_of_another_id(ids: list[int]) -> None:
    expected = [
        next(
            ((i + k) % len(ids) for k in range(1, len(ids)) if ids[(i + k) % len(ids)] != ids[i]),
            -1,
        )
        for i in range(len(ids))
    ]
    assert next_of_another_id(torch.tensor(ids)).tolist() == expected


def test_sampled_negatives_are_as_many_as_positives() -> None:
    """With a critic that is right of all: JSD's best value, from one negative an item."""
    x = torch.arange(6.0)
    value = SampledMutualInformation(estimator="jsd")(
        x, x, torch.arange(6), lambda a, b: torch.where(a == b, 50.0, -50.0)
    )
    torch.testing.assert_close(value.item(), -2 * math.log(2))
