"""Counting of FLOPs on tensors without values (meta tensors), by `torch.utils.flop_counter`.

Recurrent networks run as matrix products there, and attention as two of them, so that the counter
knows all that encoders consist of.
"""

import copy
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from xmodal.data.batch import Batch
from xmodal.distributed.collectives import as_single_rank
from xmodal.methods.method import Method
from xmodal.models.layer_groups import encoders_of


def without_weights(method: Method, parts: Collection[str]) -> Method:
    """Return a copy of a method whose weights have no values in some parts, and need no memory.

    Parts are `image`, `text` (their encoders) and `heads`, all else.
    """
    of_parts = {id(one): part_of(name) for name, one in encoder_tensors(method)}
    copies: dict[int, Any] = {}
    for tensor in chain(method.parameters(), method.buffers()):
        if of_parts.get(id(tensor), "heads") in parts:
            dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
            bare = torch.empty_like(tensor, dtype=dtype, device="meta")
            trained = tensor.requires_grad
            is_weight = isinstance(tensor, nn.Parameter)
            copies[id(tensor)] = nn.Parameter(bare, requires_grad=trained) if is_weight else bare
    bare_method = copy.deepcopy(method, copies)  # takes what is in `copies` for copied already
    bare_method.bf16 = False
    return bare_method


def encoder_tensors(method: Method) -> list[tuple[str, Tensor]]:
    """Return parameters and buffers of encoders, with the encoders' names."""
    return [
        (name, tensor)
        for name, encoder in encoders_of(method).items()
        for tensor in chain(encoder.parameters(), encoder.buffers())
    ]


def part_of(encoder: str) -> str:
    """Return the part that an encoder of a name belongs to: `image` or `text`."""
    return encoder.partition(".")[0]


def on_meta(batch: Batch, *, rows: int, length: int) -> Batch:
    """Return a batch of some rows without values, its captions and extra texts of a length."""

    def shape(name: str, tensor: Tensor) -> tuple[int, ...]:
        return (rows, *tensor.shape[1:-1], length) if "token" in name else (rows, *tensor.shape[1:])

    tensors = {name: one for name, one in vars(batch).items() if isinstance(one, Tensor)}
    bare: dict[str, Any] = {
        name: torch.empty(shape(name, one), dtype=one.dtype, device="meta")
        for name, one in tensors.items()
        if not name.endswith("lengths")
    }
    # None without a mask.
    bare |= dict.fromkeys(("token_lengths", "second_token_lengths", "extra_token_lengths"))
    return replace(batch, **bare, faults=(), warnings=())


def count_encoding(method: Method, batch: Batch) -> tuple[Counter[str], Counter[str]]:
    """Return the FLOPs of encoding a batch, forward and backward by part; both are without values.

    Encoders are cut off behind their outputs, so that the backward pass of each is one of its own.
    """
    with FlopCounterMode(display=False) as counter, as_single_rank():
        encoders = _Encoders(method, counter)
        with encoders.cut_off():
            embeddings = method.encode(batch)
        forward = Counter(encoders.forward)
        forward["heads"] = counter.get_total_flops() - forward.total()
        backward = Counter(
            heads=_backward(counter, [(one, torch.ones_like(one)) for one in _trained(embeddings)])
        )
        for part, outputs, leaves in reversed(encoders.cuts):
            gradients = [leaf.grad for leaf in leaves]
            backward[part] += _backward(counter, zip(outputs, gradients, strict=True))
    return forward, backward


class _Encoders:
    """Encoders of a method while it is counted: FLOPs of each part, and what was cut off."""

    def __init__(self, method: Method, counter: FlopCounterMode) -> None:
        self.counter, self.forward = counter, Counter[str]()
        self.cuts: list[tuple[str, list[Tensor], list[Tensor]]] = []  # outputs, and leaves for them
        self.encoders, self.before = encoders_of(method), 0

    @contextmanager
    def cut_off(self) -> Iterator[None]:
        """Count and cut off the calls of the encoders in the block."""
        handles: list[Any] = []
        for name, encoder in self.encoders.items():
            handles.append(encoder.register_forward_pre_hook(self._enter))
            handles.append(encoder.register_forward_hook(partial(self._leave, part_of(name))))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, *_: Any) -> None:
        self.before = self.counter.get_total_flops()

    def _leave(self, part: str, encoder: Any, inputs: Any, output: Any) -> Any:  # noqa: ARG002 - a hook's
        self.forward[part] += self.counter.get_total_flops() - self.before
        outputs, leaves = list[Tensor](), list[Tensor]()

        def cut(tensor: Any) -> Any:
            if not (isinstance(tensor, Tensor) and tensor.requires_grad):
                return tensor
            outputs.append(tensor)
            leaves.append(tensor.detach().requires_grad_())
            return leaves[-1]

        self.cuts.append((part, outputs, leaves))
        return cut(output) if isinstance(output, Tensor) else type(output)(*map(cut, output))


def _backward(counter: FlopCounterMode, ends: Iterable[tuple[Tensor, Tensor | None]]) -> int:
    """Return the FLOPs of a backward pass from tensors with their gradients, if they have any."""
    before = counter.get_total_flops()
    reached = [(end, gradient) for end, gradient in ends if gradient is not None]
    if reached:
        outputs, gradients = zip(*reached, strict=True)
        torch.autograd.backward(outputs, gradients)
    return counter.get_total_flops() - before


def _trained(embeddings: Any) -> list[Tensor]:
    return [
        one for one in vars(embeddings).values() if isinstance(one, Tensor) and one.requires_grad
    ]


def count_objective(method: Method, embeddings: Any, rows: int) -> int:
    """Return the forward FLOPs of the active losses of so many rows like those of `embeddings`.

    Losses look at values: here they see random ones, and rows that are no duplicates.
    """
    tensors = {name: one for name, one in vars(embeddings).items() if isinstance(one, Tensor)}
    with torch.random.fork_rng(devices=[]), torch.no_grad(), as_single_rank():
        drawn = replace(embeddings, **{name: _drawn(one, rows) for name, one in tensors.items()})
        with FlopCounterMode(display=False) as counter:
            method.objective(drawn)
    return counter.get_total_flops()


def _drawn(like: Tensor, rows: int) -> Tensor:
    shape = (rows, *like.shape[1:])
    if like.is_floating_point():
        return torch.randn(shape, dtype=like.dtype)
    return torch.arange(rows).to(like.dtype).view(-1, *[1] * (like.ndim - 1)).expand(shape)
