"""Mean of gradients over ranks, taken while the backward pass continues."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from xmodal.phases import phase


class OverlappingReduction:
    """Reduces gradients bucket by bucket, each as soon as its last one is complete.

    Buckets hold parameters from the last to the first, the order in which a backward pass reaches
    them, and all ranks reduce them in this order (Li et al. 2020, arXiv 2006.15704, section 3.2).
    `is_last` tells a backward pass that ends a step from one that adds to gradients: only there
    are they reduced. `finish`, called after it, reduces the rest: of parameters that this pass did
    not reach, whose gradients are those of passes before, or zero.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        bucket_size: int,
        dtype: torch.dtype,
        is_last: Callable[[], bool],
    ) -> None:
        self.dtype, self.is_last = dtype, is_last
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        self.buckets = list(_buckets(reversed(trained), bucket_size))
        self.bucket_of = {one: n for n, bucket in enumerate(self.buckets) for one in bucket}
        self.hooks = [one.register_post_accumulate_grad_hook(self._ready) for one in trained]
        self._reset()

    def _reset(self) -> None:
        self.missing = [len(bucket) for bucket in self.buckets]  # gradients, a bucket
        # Of buckets, in order: their gradients in one piece, what is sent of it, the exchange.
        self.on_their_way: list[tuple[Tensor, Tensor, Any]] = []

    def _ready(self, parameter: Tensor) -> None:
        if not self.is_last():
            return
        self.missing[self.bucket_of[parameter]] -= 1  # type: ignore[index]
        while (
            len(self.on_their_way) < len(self.buckets) and not self.missing[len(self.on_their_way)]
        ):
            self._send()

    @torch.no_grad()
    def _send(self) -> None:
        """Begin to reduce the next bucket."""
        for parameter in (bucket := self.buckets[len(self.on_their_way)]):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([one.grad.flatten() for one in bucket])  # type: ignore[union-attr]
        pieces = flat.split([one.numel() for one in bucket])
        for parameter, piece in zip(bucket, pieces, strict=True):
            parameter.grad = piece.view_as(parameter)
        sent = flat.to(self.dtype)
        self.on_their_way.append((flat, sent, dist.all_reduce(sent, async_op=True)))

    @torch.no_grad()
    def finish(self) -> None:
        """Reduce what is left, and wait: each rank then has the means. All ranks call this."""
        while len(self.on_their_way) < len(self.buckets):
            self._send()
        for flat, sent, work in self.on_their_way:
            with phase("communication"):
                work.wait()
            flat.copy_(sent).mul_(1 / dist.get_world_size())
        self._reset()

    def close(self) -> None:
        """Remove the hooks."""
        for hook in self.hooks:
            hook.remove()


def _buckets(parameters: Iterator[nn.Parameter], size: int) -> Iterator[Sequence[nn.Parameter]]:
    """Yield parameters in groups of one dtype, of about `size` numbers."""
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        full = sum(one.numel() for one in bucket) + parameter.numel() > size
        if bucket and (full or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket
