"""The global contrastive objective over the steps of a run, and what it keeps of each sample."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from tests.objectives.equivalence import assert_equal, differentiate, together
from tests.objectives.global_contrastive_cases import naive, share, weight_of
from tests.processes import on_ranks
from xmodal.distributed.collectives import rank, world_size
from xmodal.objectives.global_contrastive import GlobalContrastive
from xmodal.objectives.moving_estimates import MovingEstimates

SAMPLES, BATCH, DIM, STEPS = 20, 8, 5, 7


def objective(num_samples: int = SAMPLES) -> GlobalContrastive:
    loss = GlobalContrastive(scale=2.0, rho=1.0, gamma=0.3, tile=3, num_samples=num_samples)
    return loss.double()


def batch(step: int) -> dict[str, Tensor]:
    """The pairs of a step: samples in turn, so that epochs meet within a batch, and any vectors."""
    generator = torch.Generator().manual_seed(step)
    x, y = torch.randn(2, BATCH, DIM, generator=generator, dtype=torch.float64)
    samples = torch.arange(step * BATCH, (step + 1) * BATCH) * 7 % SAMPLES
    return {"x": x, "y": y, "ids": samples // 2, "samples": samples}


def steps_of(function, loss: nn.Module, rows: Tensor | slice, first: int = 0, last: int = STEPS):
    """The loss and gradients of the objective at each step."""
    results = []
    for step in range(first, last):
        loss.progress = step / STEPS
        inputs = {name: values[rows] for name, values in batch(step).items()}
        results.append(differentiate(function, loss, inputs))
    return results


def on_rank():
    loss = objective()
    rows = torch.arange(rank(), BATCH, world_size())  # as the loader deals them
    return steps_of(share, loss, rows), loss.averages.log_averages


class Naive(GlobalContrastive):
    """Averages of samples one by one, as the definition says."""

    def follow(self, inputs: dict[str, Tensor]) -> None:
        x, y, ids, samples = inputs.values()
        exponentials = ((x @ y.T - (x * y).sum(1)[:, None]) * self.log_scale.exp()).exp()
        columns = ((y @ x.T - (x * y).sum(1)[:, None]) * self.log_scale.exp()).exp()
        found: dict[tuple[int, int], float] = {}
        for side, of_side in enumerate((exponentials, columns)):
            for row, sample in enumerate(samples.tolist()):
                others = of_side[row][ids != ids[row]]
                before, now = self.averages.log_averages[side, sample].exp(), others.mean()
                weight = weight_of(self)
                value = now if before == 0 else (1 - weight) * before + weight * now
                found[side, sample] = max(found.get((side, sample), 0), value.item())
        for (side, sample), value in found.items():
            self.averages.log_averages[side, sample] = math.log(value)


def naive_steps():
    loss = Naive(scale=2.0, rho=1.0, gamma=0.3, num_samples=SAMPLES).double()
    results = []
    for step in range(STEPS):
        loss.progress = step / STEPS
        inputs = batch(step)
        results.append(differentiate(naive, loss, inputs))
        with torch.no_grad():
            loss.follow(inputs)
    return results, loss.averages.log_averages


@pytest.mark.parametrize("ranks", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_over_many_steps_it_is_what_the_definition_says(ranks: int) -> None:
    found = on_ranks(ranks, on_rank) if ranks > 1 else [on_rank()]
    expected, averages = naive_steps()
    rows = [torch.arange(one, BATCH, ranks) for one in range(ranks)]
    for step in range(STEPS):
        got = together([results[step] for results, _ in found], rows, batch(step))
        assert_equal(got, expected[step], where=f"step {step} on {ranks} ranks")
    for _, kept in found:
        assert torch.equal(kept, found[0][1])  # the same on all ranks, to the last bit
        torch.testing.assert_close(kept, averages, rtol=1e-10, atol=1e-12)
    assert averages.isfinite().all()


def test_from_its_state_it_continues_to_the_last_bit() -> None:
    whole, first, second = objective(), objective(), objective()
    expected = steps_of(share, whole, slice(None))
    steps_of(share, first, slice(None), last=4)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    again = steps_of(share, second, slice(None), first=4)
    for got, wanted in zip(again, expected[4:], strict=True):
        assert torch.equal(got.value, wanted.value)
        for name, gradient in wanted.gradients.items():
            assert torch.equal(got.gradients[name], gradient)
    assert torch.equal(second.averages.log_averages, whole.averages.log_averages)


def test_a_small_batch_learns_from_all_samples() -> None:
    """With vectors that stay, averages become those over all negatives of the data: the gradient of
    small batches is on average that of the whole, which it is not without memory (gamma 1).
    """
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, SAMPLES, DIM, generator=generator, dtype=torch.float64)
    numbers = torch.arange(SAMPLES)
    inputs = {"x": x, "y": y, "ids": numbers, "samples": numbers}
    whole = differentiate(share, constant(gamma=1.0), inputs).gradients["x"]
    errors = {}
    for gamma in (0.02, 1.0):
        loss, total = constant(gamma), torch.zeros_like(x)
        for step in range(600):
            rows = torch.randperm(SAMPLES, generator=generator)[:4]
            got = differentiate(share, loss, {name: of[rows] for name, of in inputs.items()})
            if step >= 200:
                total[rows] += got.gradients["x"] / 400
        errors[gamma] = (total - whole).norm() / whole.norm()
    assert errors[0.02] < 0.25
    assert errors[0.02] < errors[1.0] / 2


def constant(gamma: float) -> GlobalContrastive:
    loss = GlobalContrastive(scale=2.0, gamma=gamma, gamma_decay=0, num_samples=SAMPLES)
    return loss.double()


def test_without_gradients_nothing_is_kept() -> None:
    loss = objective()
    with torch.no_grad():
        loss(*batch(0).values())
    assert loss.averages.log_averages.isneginf().all()
    loss.eval()(*batch(0).values())  # a temperature that is locked has it in evaluation mode
    assert not loss.averages.log_averages.isneginf().all()


def test_a_model_that_is_only_used_leaves_averages_unread() -> None:
    trained, used = objective(), objective(num_samples=0)
    steps_of(share, trained, slice(None), last=1)
    used.load_state_dict(trained.state_dict())
    assert used.averages.log_averages.numel() == 0
    assert torch.equal(used.log_scale, trained.log_scale)
    with pytest.raises(ValueError, match="call make_room"):
        used(*batch(0).values())


def test_other_data_have_no_room_for_averages() -> None:
    with pytest.raises(RuntimeError, match="size mismatch for averages"):
        objective(SAMPLES + 1).load_state_dict(objective().state_dict())


def test_averages_stay_exact_where_weights_are_halved() -> None:
    estimates = MovingEstimates(2, 3)
    estimates.log_averages.fill_(-1 / 3)
    assert nn.Sequential(estimates).bfloat16()[0].log_averages.dtype == torch.float32
    assert torch.equal(estimates.log_averages, torch.full((2, 3), -1 / 3))
    assert estimates.double().log_averages.dtype == torch.float64


def test_samples_have_to_be_given() -> None:
    with pytest.raises(ValueError, match="samples"):
        objective()(*list(batch(0).values())[:3])


def test_memory_is_linear_in_batch_and_samples() -> None:
    """Memory for the backward pass grows with the batch, not with its square."""

    def kept(rows: int) -> int:
        found: list[int] = []
        x, y = torch.randn(2, rows, DIM, requires_grad=True)
        loss = GlobalContrastive(num_samples=rows, tile=8)
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda one: found.append(one.numel()) or one, lambda one: one
        )
        with hooks:
            loss(x, y, torch.arange(rows), torch.arange(rows))
        return sum(found)

    assert kept(256) < 2.1 * kept(128)
