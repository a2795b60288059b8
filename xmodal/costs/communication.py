"""Bytes that a rank sends to others, by ring algorithms (Patarasu and Yuan 2009).

Of n ranks, each sends (n − 1) / n of what is gathered or scattered, and twice as much of what is
all-reduced, which is both.
"""

from collections import Counter
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Of torch's operations, how often a rank sends (n − 1) / n of the larger side.
_SHARES = {
    "allreduce_": 2,
    "allgather_": 1,
    "_allgather_base_": 1,
    "allgather_into_tensor_coalesced_": 1,
    "reduce_scatter_": 1,
    "_reduce_scatter_base_": 1,
    "broadcast_": 1,
    "reduce_": 1,
}


class CollectiveCounter(TorchDispatchMode):
    """Bytes that this rank sends in collectives of `ranks` ranks, by operation."""

    def __init__(self, ranks: int) -> None:
        super().__init__()
        self.ranks = ranks
        self.sent: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.namespace == "c10d" and (share := _SHARES.get(func._opname)):
            size = max(map(_bytes, args))
            self.sent[func._opname.strip("_")] += share * size * (self.ranks - 1) // self.ranks
        return func(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        """Bytes sent."""
        return self.sent.total()


def _bytes(argument: Any) -> int:
    return sum(
        one.numel() * one.element_size() for one in tree_leaves(argument) if isinstance(one, Tensor)
    )


def sent_by_engine(
    zero: int,
    ranks: int,
    *,
    trained: int,
    weights: int,
    gradient_bytes: int,
    weight_bytes: int,
    passes: int,
) -> dict[str, int]:
    """Return the bytes that DeepSpeed has a rank send in a step, by what they are.

    `trained` and `weights` count trained and all weights, `gradient_bytes` and `weight_bytes` are
    those of a number on its way, `passes` the backward passes of a step. Gradients are all-reduced
    once a step under ZeRO 0 and 1, in every pass under 2, and scattered in every pass under 3. New
    weights are gathered once a step under 1 and 2; under 3 weights are gathered in every forward
    pass, those without gradients too, and kept until the backward pass.
    """
    share = (ranks - 1) / ranks
    reductions = (2, 2, 2 * passes, passes)[zero]
    gathered = (0, trained, trained, (2 * passes - 1) * weights)[zero]
    return {
        "gradients": round(share * reductions * trained * gradient_bytes),
        "weights": round(share * gathered * weight_bytes),
    }
