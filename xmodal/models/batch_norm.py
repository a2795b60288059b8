"""Batch normalisation over the global batch, on any backend.

What a rank's part alone normalises depends on the number of ranks. Here ranks exchange their
moments, on gloo as on NCCL. On GPUs the kernels of torch's SyncBatchNorm compute; that class itself
needs GPUs, and has the host wait for each layer, to leave out ranks without samples.
"""

from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from xmodal.distributed.collectives import gather, sum_over_ranks, world_size


def synchronise_batch_norm(module: nn.Module) -> None:
    """Make every batch normalisation in a module take its statistics over all ranks, in place."""
    for part in module.modules():
        if type(part) in _SYNCHRONISED:
            part.__class__ = _SYNCHRONISED[type(part)]


def normalise(x: Tensor, norm: nn.modules.batchnorm._BatchNorm) -> Tensor:
    """Normalise x (batch, channels, …) by the mean and variance of all ranks, as `norm` says.

    In evaluation mode, and on one process, this is torch's own batch normalisation. Ranks may bring
    different numbers of samples.
    """
    if not norm.training or world_size() == 1:
        return nn.BatchNorm2d.forward(norm, x) if x.ndim == 4 else nn.BatchNorm1d.forward(norm, x)
    if has_kernels(x):
        return _normalise_by_kernels(x, norm)
    count, mean, variance = _global_moments(x)
    _update_running(norm, mean, variance * count / (count - 1))
    rstd = (variance + norm.eps).rsqrt()
    normalised = _Standardise.apply(x, mean, rstd, count)
    if norm.affine:
        normalised = torch.addcmul(_wide(norm.bias, x), normalised, _wide(norm.weight, x))
    return normalised.to(x.dtype)


@torch.no_grad()
def _global_moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return how many values a channel has on all ranks, (1,), their mean and variance."""
    # A rank without samples has no moments: of one sample of zeros, in a share of nothing.
    values = x if len(x) else x.new_zeros(1, *x.shape[1:])
    variance, mean = torch.var_mean(_precise(values), _all_but_channels(x), correction=0)
    count = mean.new_full((1,), x.numel() / x.shape[1])  # filled there: a copy would wait
    everywhere = gather(torch.cat([count, mean, variance])[None], [1] * world_size())
    counts, means, variances = everywhere.split([1, len(mean), len(mean)], 1)
    shares = counts / counts.sum()
    mean = (shares * means).sum(0)
    # Spread within ranks and between them; the difference of mean squares would cancel.
    variance = (shares * (variances + (means - mean).square())).sum(0)
    return counts.sum(0), mean, variance


class _Standardise(torch.autograd.Function):
    """(x − mean) · rstd, where mean and rstd are those of x on all ranks, and depend on it.

    Keeps x alone; all else that the gradient takes is small (Ioffe and Szegedy 2015, section 3).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, rstd: Tensor, count: Tensor) -> Tensor:
        ctx.save_for_backward(x, mean, rstd, count)
        return (_precise(x) - _wide(mean, x)) * _wide(rstd, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        x, mean, rstd, count = ctx.saved_tensors
        (gradient,) = gradients
        dims = _all_but_channels(x)
        standard = (_precise(x) - _wide(mean, x)) * _wide(rstd, x)
        sums = torch.stack([gradient.sum(dims), (gradient * standard).sum(dims)])
        through_mean, through_rstd = sum_over_ranks(sums) / count
        gradient = gradient - _wide(through_mean, x) - standard * _wide(through_rstd, x)
        return (gradient * _wide(rstd, x)).to(x.dtype), None, None, None


def has_kernels(x: Tensor) -> bool:
    """Return whether torch has kernels for a tensor's device."""
    return x.is_cuda


def _normalise_by_kernels(x: Tensor, norm: nn.modules.batchnorm._BatchNorm) -> Tensor:
    mean, var, momentum = None, None, norm.momentum
    if norm.track_running_stats:
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked += 1
        mean, var = norm.running_mean, norm.running_var
        if momentum is None:
            momentum = 1 / float(norm.num_batches_tracked)
    normalised: Tensor = _Kernels.apply(
        x.contiguous(memory_format=_layout(x)),
        norm.weight,
        norm.bias,
        mean,
        var,
        norm.eps,
        momentum or 0.0,
    )
    return normalised


class _Kernels(torch.autograd.Function):
    """Batch normalisation over all ranks by torch's kernels, which read x twice each way."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        eps: float,
        momentum: float,
    ) -> Tensor:
        channels = x.shape[1]
        if len(x):
            moments = torch.batch_norm_stats(x, eps)
        else:  # any finite ones: they count for nothing
            ones = _precise(x).new_ones(channels)
            moments = ones, ones
        count = moments[0].new_full((1,), x.numel() / channels)
        everywhere = gather(torch.cat([*moments, count])[None], [1] * world_size())
        means, rstds, counts = everywhere.split([channels, channels, 1], 1)
        counts = counts.flatten()
        mean, rstd = torch.batch_norm_gather_stats_with_counts(
            x, means, rstds, running_mean, running_var, momentum, eps, counts
        )
        ctx.save_for_backward(x, weight, mean, rstd, counts.int())
        if not len(x):
            return torch.empty_like(x)
        return torch.batch_norm_elemt(x, weight, bias, mean, rstd, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd, counts = ctx.saved_tensors
        (gradient,) = gradients
        gradient = gradient.contiguous(memory_format=_layout(x))
        weight = None if weight is None else weight.to(mean.dtype)
        if len(x):
            *sums, of_weight, of_bias = torch.batch_norm_backward_reduce(
                gradient, x, mean, rstd, weight, *ctx.needs_input_grad[:3]
            )
        else:
            sums = [torch.zeros_like(mean), torch.zeros_like(mean)]
            of_weight, of_bias = torch.zeros_like(mean), torch.zeros_like(mean)
        of_x = None
        if ctx.needs_input_grad[0]:
            totals = sum_over_ranks(torch.stack(sums))
            of_x = gradient
            if len(x):
                of_x = torch.batch_norm_backward_elemt(  # type: ignore[call-arg]
                    gradient, x, mean, rstd, weight, *totals, counts
                )
        needed = ctx.needs_input_grad
        of_both = (of_weight if needed[1] else None, of_bias if needed[2] else None)
        return of_x, *of_both, None, None, None, None


def _layout(x: Tensor) -> torch.memory_format:
    """Return the layout, of the two that the kernels read, which a tensor has or should get."""
    is_last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last else torch.contiguous_format


def _precise(x: Tensor) -> Tensor:
    """At least float32, in which moments are computed whatever the precision of the run."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _all_but_channels(x: Tensor) -> list[int]:
    return [dim for dim in range(x.ndim) if dim != 1]


def _wide(values: Tensor, x: Tensor) -> Tensor:
    """A value a channel, (channels,), in a shape that goes with x (batch, channels, …)."""
    return values.view(1, -1, *[1] * (x.ndim - 2))


@torch.no_grad()
def _update_running(norm: nn.modules.batchnorm._BatchNorm, mean: Tensor, variance: Tensor) -> None:
    if not norm.track_running_stats:
        return
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked += 1
    momentum = norm.momentum
    weight = 1 / float(norm.num_batches_tracked) if momentum is None else momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean), weight)
    norm.running_var.lerp_(variance.to(norm.running_var), weight)


class SyncBatchNorm1d(nn.BatchNorm1d):
    """`nn.BatchNorm1d` over all ranks."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (batch, channels) or (batch, channels, length)."""
        return normalise(x, self)


class SyncBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` over all ranks."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (batch, channels, height, width)."""
        return normalise(x, self)


class SyncBatchNormAct2d(BatchNormAct2d):
    """timm's batch normalisation with activation, over all ranks."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise and activate (batch, channels, height, width)."""
        activated: Tensor = self.act(self.drop(normalise(x, self)))
        return activated


_SYNCHRONISED: dict[type, type] = {
    nn.BatchNorm1d: SyncBatchNorm1d,
    nn.BatchNorm2d: SyncBatchNorm2d,
    BatchNormAct2d: SyncBatchNormAct2d,
}
