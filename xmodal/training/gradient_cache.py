"""Batches larger than memory: exact gradients with the activations of one micro-batch at a time.

GradCache (Gao et al. 2021, arXiv 2101.06983; BASIC, Pham et al. 2021, arXiv 2111.10050): an
objective over the whole batch needs only the values of its embeddings, and encoders need only the
objective's gradient by theirs. So embeddings are computed twice and activations kept once.

`GradientCache` is for DeepSpeed's engine, `cached_backward` for a PyTorch loop of one's own.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import get_device_states, set_device_states

from xmodal.data.batch import Batch, join
from xmodal.distributed.collectives import equal_rows, rank, world_size
from xmodal.models.running_statistics import batch_norms, running_statistics_kept
from xmodal.phases import phase, switch_phase


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
        self.engine, self.seed = engine, seed
        self.micro_batches = [one.to(engine.device) for one in micro_batches]
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
        with phase("backward"):
            switch_phase("backward", "objective")  # until `_reach_encoders`
            self._backward(loss, last=not self.cached)
        for number, embeddings in enumerate(self.cached, 1):
            surrogate = self.engine(partial(self._surrogate, number, embeddings))
            with phase("backward"):
                self._backward(surrogate, last=number == len(self.cached))

    def without_gradients(self, compute: Callable[[Any, Batch], None]) -> None:
        """Call `compute` with the method and each micro-batch, in the random states of the step."""
        with torch.no_grad(), running_statistics_kept(self.engine.module), equal_rows():
            for number, batch in enumerate(self.micro_batches):
                self._seed(number)
                with phase("forward"):
                    self.engine.module(lambda method, batch=batch: compute(method, batch))

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
        joined = join(parts)
        for tensor in _tensors(joined).values():
            if tensor.requires_grad:
                tensor.register_hook(_reach_encoders)
        with equal_rows(), phase("objective"):
            losses: dict[str, Tensor] = method.objective(joined)
        return losses

    def _surrogate(self, number: int, cached: Any, method: Any) -> Tensor:
        again = self._encode(number, method)
        return _surrogate(
            (getattr(again, name), tensor) for name, tensor in _tensors(cached).items()
        )

    def _encode(self, number: int, method: Any) -> Any:
        self._seed(number)
        with phase("forward"):
            return method.encode(self.micro_batches[number])

    def _seed(self, number: int) -> None:
        torch.manual_seed(hash((*self.seed, number * world_size() + rank())))

    def _backward(self, value: Tensor, *, last: bool) -> None:
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(value)


def _reach_encoders(_: Tensor) -> None:
    """End the objective's part of a backward pass, once the gradient of embeddings is there."""
    switch_phase("objective", "backward")


def cached_backward(
    model: nn.Module,
    objective: Callable[..., Tensor],
    micro_batches: Sequence[Sequence[Tensor]],
) -> Tensor:
    """Add up the gradients of an objective over a rank's micro-batches; return its share, ().

    `model` maps the tensors of a micro-batch to embeddings, a tuple of (rows, …) each; `objective`
    maps those of all the rank's rows to its share of the loss. Gradients are those of

        objective(*model(*all_rows)).backward()

    with the activations of one micro-batch in memory. Each micro-batch is encoded twice in the same
    random state. `DistributedDataParallel` exchanges the model's gradients with the last one.
    """
    cached: list[Sequence[Tensor]] = []
    states: list[_RandomState] = []
    with torch.no_grad(), running_statistics_kept(model):
        for micro_batch in micro_batches[1:]:
            states.append(_RandomState(micro_batch))
            cached.append(model(*micro_batch))
    with _exchange(model, now=not cached):
        first = model(*micro_batches[0])
        share = _backward_of_first(first, cached, objective)
    if not any(tensor.requires_grad for tensor in first):
        return share
    for number, (micro_batch, embeddings) in enumerate(zip(micro_batches[1:], cached, strict=True)):
        with _exchange(model, now=number == len(cached) - 1), states[number].restored():
            _surrogate(zip(model(*micro_batch), embeddings, strict=True)).backward()
    return share


def _backward_of_first(
    first: Sequence[Tensor], cached: list[Sequence[Tensor]], objective: Callable[..., Tensor]
) -> Tensor:
    """Take the objective of all embeddings, and its gradients by its parameters and by them."""
    for embeddings in cached:
        for tensor, of_first in zip(embeddings, first, strict=True):
            tensor.requires_grad_(of_first.requires_grad)
    share = objective(*(torch.cat(parts) for parts in zip(first, *cached, strict=True)))
    share.backward()
    return share.detach()


def _exchange(model: nn.Module, *, now: bool) -> AbstractContextManager[None]:
    """Return a context in which the ranks exchange gradients, or keep them for a later pass."""
    if isinstance(model, DistributedDataParallel) and not now:
        return model.no_sync()
    return nullcontext()


class _RandomState:
    """The state of the generators of the CPU and of the devices that some tensors are on."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.cpu = torch.get_rng_state()
        self.devices, self.states = get_device_states(*tensors)

    @contextmanager
    def restored(self) -> Iterator[None]:
        with torch.random.fork_rng(self.devices):
            torch.set_rng_state(self.cpu)
            set_device_states(self.devices, self.states)
            yield


def _surrogate(pairs: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Return a sum whose gradient by the weights is the loss's, through these samples.

    Pairs are of embeddings that are computed again and of the cached ones, which have gradients.
    """
    products = [(again * cached.grad).sum() for again, cached in pairs if cached.grad is not None]
    return torch.stack(products).sum()


def _tensors(embeddings: Any) -> dict[str, Tensor]:
    return {name: value for name, value in vars(embeddings).items() if isinstance(value, Tensor)}


def batch_norm_lines(module: nn.Module, size: int, batch_size: int) -> list[str]:
    """Return a line for the log where a layer normalises fewer samples than the global batch.

    `size` is that of a micro-batch over all ranks.
    """
    norms = list(batch_norms(module))
    if not norms or size >= batch_size:
        return []
    return [
        f"{norms[0]} normalises {size} samples at a time, a micro-batch of all ranks, "
        f"not data.batch_size={batch_size}"
    ]
