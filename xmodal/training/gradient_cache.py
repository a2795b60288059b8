"""Batches larger than memory: exact gradients with the activations of one micro-batch at a time.

GradCache (Gao et al. 2021, arXiv 2101.06983; BASIC, Pham et al. 2021, arXiv 2111.10050): an
objective over the whole batch needs only the values of its embeddings, and encoders need only the
objective's gradient by theirs. So embeddings are computed twice and activations kept once.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.data.batch import Batch, join
from xmodal.distributed.collectives import rank, world_size


class GradientCache:
    """Forward and backward of one optimiser step over a rank's micro-batches.

    Forward, all micro-batches but the first are encoded without gradients, the first one with
    them, and the objective is taken once, of all embeddings. Backward, it gives the gradients of
    its own parameters, of the first micro-batch, and of the embeddings of each other one, which
    is then encoded again, in the same random state, for its part of the encoders' gradient.

    `seed` is that of all ranks and micro-batches, each of which draws its own. A single micro-batch
    makes a plain step.
    """

    def __init__(self, engine: Any, micro_batches: Sequence[Batch], seed: tuple[int, ...]) -> None:
        self.engine, self.micro_batches, self.seed = engine, micro_batches, seed
        self.cached: list[Any] = []  # embeddings of each micro-batch after the first

    def forward(self) -> dict[str, Tensor]:
        """Return this rank's shares of the losses over the global batch, by name."""
        # The engine is not called for these: to DeepSpeed a call means that a backward follows.
        with torch.no_grad(), running_statistics_kept(self.engine.module):
            for number in range(1, len(self.micro_batches)):
                self.engine.module(partial(self._cache, number))
        losses: dict[str, Tensor] = self.engine(self._objective)
        return losses

    def backward(self, loss: Tensor) -> None:
        """Add up the gradients of `loss`, the sum of what `forward` returned."""
        self._backward(loss, last=not self.cached)
        for number, embeddings in enumerate(self.cached, 1):
            surrogate = self.engine(partial(self._surrogate, number, embeddings))
            self._backward(surrogate, last=number == len(self.cached))

    def _cache(self, number: int, method: Any) -> None:
        self.cached.append(self._encode(number, method))

    def _objective(self, method: Any) -> dict[str, Tensor]:
        # ZeRO 3 starts the sum of a parameter's gradient in a step's first backward or not at all:
        # encoders and objective both have to be in this one.
        first = self._encode(0, method)
        parts = [first, *self.cached]
        for embeddings in self.cached:
            for name, tensor in _tensors(embeddings).items():
                tensor.requires_grad_(getattr(first, name).requires_grad)
        if not any(tensor.requires_grad for tensor in _tensors(first).values()):
            self.cached = []  # every encoder is locked: there is nothing to go back to
        losses: dict[str, Tensor] = method.objective(join(parts))
        return losses

    def _surrogate(self, number: int, cached: Any, method: Any) -> Tensor:
        """Return what has the gradient that the loss has by the weights, through these samples."""
        again = self._encode(number, method)
        products = [
            (getattr(again, name) * tensor.grad).sum()
            for name, tensor in _tensors(cached).items()
            if tensor.grad is not None
        ]
        return torch.stack(products).sum()

    def _encode(self, number: int, method: Any) -> Any:
        torch.manual_seed(hash((*self.seed, number * world_size() + rank())))
        return method.encode(self.micro_batches[number].to(self.engine.device))

    def _backward(self, value: Tensor, *, last: bool) -> None:
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(value)


@contextmanager
def running_statistics_kept(module: nn.Module) -> Iterator[None]:
    """Keep batch normalisation from counting samples that are going to be seen once more."""
    tracking = [norm for norm in batch_norms(module).values() if norm.track_running_stats]
    for norm in tracking:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in tracking:
            norm.track_running_stats = True


def batch_norms(module: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    """Return the layers that normalise by the samples they are given together, by name."""
    return {
        name: part
        for name, part in module.named_modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.training
    }


def _tensors(embeddings: Any) -> dict[str, Tensor]:
    return {name: value for name, value in vars(embeddings).items() if isinstance(value, Tensor)}
