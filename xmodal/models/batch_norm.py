"""Batch normalisation over the global batch, on any backend.

torch's own SyncBatchNorm needs GPUs, and what a rank's part alone normalises depends on the number
of ranks. Here the sums go through a differentiable all-reduce, on gloo as on NCCL.
"""

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from xmodal.distributed.collectives import all_reduce, world_size


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
    dims = [dim for dim in range(x.ndim) if dim != 1]
    shape = [1, -1, *[1] * (x.ndim - 2)]
    values = x.float()
    count = values.new_tensor([values.numel() / values.shape[1]])
    total = all_reduce(torch.cat([values.sum(dims), count]))
    mean, count = total[:-1] / total[-1], total[-1]
    centred = values - mean.view(shape)
    # The mean first, then the squares about it: their difference would cancel in float32.
    variance = all_reduce(centred.square().sum(dims)) / count
    _update_running(norm, mean.detach(), variance.detach() * count / (count - 1))
    normalised = centred * (variance + norm.eps).rsqrt().view(shape)
    if norm.affine:
        normalised = normalised * norm.weight.view(shape) + norm.bias.view(shape)
    return normalised.to(x.dtype)


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
