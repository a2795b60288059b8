from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.processes import on_ranks
from xmodal.distributed.collectives import rank, world_size
from xmodal.models.batch_norm import _normalise_by_kernels, synchronise_batch_norm

CHANNELS = 3
SIZES = {1: [12], 2: [4, 8], 4: [1, 5, 0, 6]}  # of the ranks' parts of a batch, by ranks
Make = Callable[[], nn.Module]


def batch_norm_2d() -> nn.Module:
    return nn.BatchNorm2d(CHANNELS)


def batch_norm_1d() -> nn.Module:
    return nn.BatchNorm1d(CHANNELS, momentum=None)


def without_weights() -> nn.Module:
    return nn.BatchNorm2d(CHANNELS, affine=False, momentum=0.3)


def without_statistics() -> nn.Module:
    return nn.BatchNorm2d(CHANNELS, track_running_stats=False)


def with_activation() -> nn.Module:
    return BatchNormAct2d(CHANNELS, act_layer=nn.SiLU)


def made(make: Make) -> nn.Module:
    """A batch normalisation with random weights, the same at each call."""
    module = make()
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, mean=1.0, generator=generator)
    return module.double()


def values_of(step: int, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return 5 + torch.randn(12, CHANNELS, *shape, generator=generator, dtype=torch.float64)


def own_part(values: Tensor) -> Tensor:
    return values.split(SIZES[world_size()])[rank()]


def train_part(make: Make, shape: tuple[int, ...]) -> dict[str, Any]:
    """Outputs, gradients and statistics of two steps, on this rank's part of the values.

    A loss that is a sum over the batch has as its share the sum over the part, times the ranks.
    """
    module = made(make)
    synchronise_batch_norm(module)
    for step in range(2):
        module.zero_grad()
        values = own_part(values_of(step, shape)).clone().requires_grad_()
        out = module(values)
        (world_size() * out.sin().sum()).backward()
    return {
        "out": out.detach(),
        "values": values.grad,
        "parameters": {name: p.grad for name, p in module.named_parameters()},
        "buffers": dict(module.named_buffers()),
    }


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (batch_norm_2d, (4, 5)),
        (batch_norm_1d, ()),
        (batch_norm_1d, (6,)),
        (without_weights, (2, 2)),
        (without_statistics, (2, 2)),
        (with_activation, (3, 1)),
    ],
)
def test_parts_of_a_batch_are_normalised_as_the_whole_is_by_torch(
    make: Make, shape: tuple[int, ...], ranks: int
) -> None:
    torch_s = made(make)
    for step in range(2):
        torch_s.zero_grad()
        values = values_of(step, shape).requires_grad_()
        out = torch_s(values)
        out.sin().sum().backward()

    parts = on_ranks(ranks, train_part, make, shape)

    def close(got: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)

    close(torch.cat([part["out"] for part in parts]), out.detach())
    close(torch.cat([part["values"] for part in parts]) / ranks, values.grad)
    for name, parameter in torch_s.named_parameters():
        close(sum(part["parameters"][name] for part in parts) / ranks, parameter.grad)
    for name, buffer in torch_s.named_buffers():
        for part in parts:
            close(part["buffers"][name], buffer)


class Kernels:
    """The results of torch's kernels, which run on GPUs alone, computed on the CPU."""

    @staticmethod
    def batch_norm_stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        variance, mean = torch.var_mean(x.transpose(0, 1).flatten(1), 1, correction=0)
        return mean, (variance + eps).rsqrt()

    @staticmethod
    def batch_norm_gather_stats_with_counts(
        x: Tensor,  # noqa: ARG004
        means: Tensor,
        rstds: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
        counts: Tensor,
    ) -> tuple[Tensor, Tensor]:
        total, counts = counts.sum(), counts[:, None]
        mean = (counts * means).sum(0) / total
        squares = counts * (rstds**-2 - eps + (means - mean).square())
        assert squares.isfinite().all()
        variance = squares.sum(0) / total
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance * total / (total - 1), momentum)
        return mean, (variance + eps).rsqrt()

    @staticmethod
    def batch_norm_elemt(
        x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, rstd: Tensor, _: float
    ) -> Tensor:
        standard = (x - wide(mean, x)) * wide(rstd, x)
        if weight is None or bias is None:
            return standard
        return standard * wide(weight, x) + wide(bias, x)

    @staticmethod
    def batch_norm_backward_reduce(
        gradient: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, *_: Any
    ) -> tuple[Tensor, ...]:
        dims = [dim for dim in range(x.ndim) if dim != 1]
        of_mean = gradient.sum(dims)
        of_spread = (gradient * (x - wide(mean, x))).sum(dims)
        return of_mean, of_spread, of_spread * rstd, of_mean.clone()

    @staticmethod
    def batch_norm_backward_elemt(
        gradient: Tensor,
        x: Tensor,
        mean: Tensor,
        rstd: Tensor,
        weight: Tensor | None,
        of_mean: Tensor,
        of_spread: Tensor,
        counts: Tensor,
    ) -> Tensor:
        total, factor = counts.sum(), rstd if weight is None else rstd * weight
        through = (x - wide(mean, x)) * wide(rstd.square() * of_spread / total, x)
        return (gradient - wide(of_mean / total, x) - through) * wide(factor, x)


def wide(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.ndim - 2))


def train_part_by_kernels(make: Make, shape: tuple[int, ...]) -> dict[str, Any]:
    """`train_part` as on GPUs, in a process of its own."""
    import xmodal.models.batch_norm as batch_norm

    batch_norm.has_kernels = lambda _: True
    for name, kernel in vars(Kernels).items():
        if name.startswith("batch_norm"):
            assert hasattr(torch, name)
            setattr(torch, name, kernel.__func__)
    return train_part(make, shape)


@pytest.mark.parametrize(
    ("make", "shape"),
    [(batch_norm_1d, ()), (without_weights, (2, 2))],
)
def test_kernels_of_gpus_are_called_as_torch_calls_them(make: Make, shape: tuple[int, ...]) -> None:
    for own, by_kernels in zip(
        on_ranks(4, train_part, make, shape),
        on_ranks(4, train_part_by_kernels, make, shape),
        strict=True,
    ):
        torch.testing.assert_close(by_kernels, own, rtol=1e-10, atol=1e-10)


@pytest.mark.gpu
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_of_a_gpu_normalise_as_torch_does(
    dtype: torch.dtype, layout: torch.memory_format
) -> None:
    found = []
    for normalise in (nn.BatchNorm2d.forward, lambda norm, x: _normalise_by_kernels(x, norm)):
        norm = made(batch_norm_2d).float().cuda()
        values = values_of(0, (8, 8)).to("cuda", dtype).contiguous(memory_format=layout)
        out = normalise(norm, values.requires_grad_())
        out.float().sin().sum().backward()
        found.append([out, values.grad, norm.weight.grad, norm.bias.grad, *norm.buffers()])
    for one, other in zip(*found, strict=True):
        assert one.dtype == other.dtype
        close = 1e-4 if dtype == torch.float32 else 5e-2
        torch.testing.assert_close(one, other, rtol=close, atol=close)


def normalise_in(dtype: torch.dtype, offset: float) -> Tensor:
    module = batch_norm_2d()
    synchronise_batch_norm(module)
    values = own_part(values_of(0, (8, 8))) + offset
    out = module(values.to(dtype).contiguous(memory_format=torch.channels_last))
    assert out.dtype == dtype
    return out.detach()


@pytest.mark.parametrize(
    ("dtype", "offset", "tolerance"), [(torch.float32, 3e3, 1e-3), (torch.bfloat16, 0, 4e-3)]
)
def test_precision_is_kept_far_from_zero_and_in_half(
    dtype: torch.dtype, offset: float, tolerance: float
) -> None:
    got = torch.cat(on_ranks(2, normalise_in, dtype, offset)).double()
    values = (values_of(0, (8, 8)) + offset).to(dtype).double()
    expected = made(batch_norm_2d)
    nn.init.ones_(expected.weight)
    nn.init.zeros_(expected.bias)
    torch.testing.assert_close(got, expected(values).detach(), rtol=tolerance, atol=1e-3)


def evaluate_part(make: Make, shape: tuple[int, ...]) -> tuple[Tensor, dict[str, Tensor]]:
    module = made(make).eval()
    synchronise_batch_norm(module)
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    out = module(own_part(values_of(0, shape)))
    assert all(torch.equal(buffer, before[name]) for name, buffer in module.named_buffers())
    return out.detach(), before


@pytest.mark.parametrize(
    ("make", "shape"), [(batch_norm_2d, (2, 2)), (batch_norm_1d, ()), (with_activation, (2, 2))]
)
def test_in_evaluation_mode_nothing_is_exchanged(make: Make, shape: tuple[int, ...]) -> None:
    expected = made(make).eval()(values_of(0, shape))
    parts = on_ranks(2, evaluate_part, make, shape)
    assert torch.equal(torch.cat([out for out, _ in parts]), expected.detach())


@pytest.mark.parametrize("make", [batch_norm_2d, with_activation])
def test_on_one_process_it_is_torch_s_own_and_keeps_its_state(make: Make) -> None:
    alone, synchronised = made(make), made(make)
    synchronise_batch_norm(synchronised)
    assert type(synchronised) is not type(alone)
    values = values_of(0, (2, 2))
    assert torch.equal(synchronised(values), alone(values))
    assert synchronised.state_dict().keys() == alone.state_dict().keys()
    assert torch.equal(synchronised.running_var, alone.running_var)


class Waits(TorchDispatchMode):
    """Counts what has a GPU and its processor wait for one another."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        # A tensor made of numbers of Python, which is copied; a number read from a tensor.
        if func._schema.name in ("aten::lift_fresh", "aten::_local_scalar_dense"):
            self.found.append(func._schema.name)
        return func(*args, **(kwargs or {}))


def waits_of_part() -> list[str]:
    module = made(batch_norm_2d)
    synchronise_batch_norm(module)
    with Waits() as waits:
        torch.tensor([1.0]).item()
        assert len(waits.found) == 2
        module(own_part(values_of(0, (4, 5)))).sum().backward()
    return waits.found[2:]


def test_nothing_waits_for_the_device() -> None:
    assert on_ranks(2, waits_of_part) == [[], []]


def test_other_normalisations_are_left_alone() -> None:
    module = nn.Sequential(nn.LayerNorm(4), nn.Sequential(nn.GroupNorm(1, 4), nn.BatchNorm2d(4)))
    synchronise_batch_norm(module)
    assert [type(part).__name__ for part in (module[0], *module[1])] == [
        "LayerNorm",
        "GroupNorm",
        "SyncBatchNorm2d",
    ]
