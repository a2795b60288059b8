"""Stand-in for DeepSpeed's engine on tensors without values: what a rank holds, and when.

It calls the method and the real optimiser, and makes the tensors that DeepSpeed 0.19 makes beside
them: flat shares under ZeRO, and the buffers that gradients are reduced in.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.costs.memory import MemoryTracker
from xmodal.methods.method import Method
from xmodal.training.config import StageConfig, TrainingConfig
from xmodal.training.ema import averages_of, keep_average, set_decay
from xmodal.training.parts import parameter_groups

PASSES = 2  # that differ: a step's first pass, which has the objective, and all others


class RehearsalEngine:
    """The engine of one of `ranks` ranks, as `GradientCache` takes it.

    Passes of a step after the second are equal to it, and skipped.
    """

    def __init__(
        self,
        method: Method,
        stage: StageConfig,
        training: TrainingConfig,
        ranks: int,
        memory: MemoryTracker,
        *,
        on_gpus: bool,
    ) -> None:
        self.module, self.memory, self.ranks = method, memory, ranks
        self.device = next(method.parameters()).device
        self.zero, self.on_gpus = training.zero, on_gpus
        self.sent = torch.bfloat16 if training.communication == "bf16" else torch.float32
        self.trained = [one for one in method.parameters() if one.requires_grad]
        self.passes = 0
        self.last = True
        self.buffers: list[Tensor] = []  # that gradients are reduced in
        for one in self.trained:
            one.register_post_accumulate_grad_hook(self._keep)
        with memory.holding("optimizer"):
            groups = [self._share(group) for group in parameter_groups(method, stage)]
            fused = {"fused": True} if on_gpus and stage.optimizer.fuses else {}
            self.optimizer = stage.optimizer.build(groups, **fused)
        with memory.holding("gradients"):
            # Under ZeRO 3 a share of all gradients is there from the start.
            self.flat = [torch.empty_like(one) for one in self._stepped() if self.zero.stage == 3]
        for key in averages_of(stage, method):
            keep_average(self.optimizer, key)
        set_decay(self, stage, 0)

    def _share(self, group: dict[str, Any]) -> dict[str, Any]:
        """Return an optimiser's group with this rank's share of it, flat under ZeRO."""
        if not self.zero.stage:
            return group
        size = sum(one.numel() for one in group["params"])
        return {**group, "params": [nn.Parameter(torch.empty(-(-size // self.ranks)))]}

    def __call__(self, compute: Callable[[Method], Any]) -> Any:
        """Return `compute(method)`; of equal passes, nothing."""
        self.passes += 1
        return self.module(compute) if self.passes <= PASSES else None

    def set_gradient_accumulation_boundary(self, is_last: bool) -> None:
        """Take note of whether the next backward pass ends the step."""
        self.last = is_last

    def backward(self, value: Tensor | None) -> None:
        """Compute gradients, as far as the pass was computed."""
        if value is not None:
            value.backward()

    def _keep(self, parameter: Tensor) -> None:
        """Do with a gradient that is complete in this pass what the engine does."""
        assert parameter.grad is not None
        self.memory.relabel(parameter.grad, "gradients")
        if self.zero.overlaps(on_gpus=self.on_gpus) or self.zero.stage > 1:
            self._send(parameter)
        if self.zero.stage > 1:
            parameter.grad = None  # flat shares are kept

    def _send(self, parameter: Tensor) -> None:
        """Make the buffer that a gradient is reduced in."""
        with self.memory.holding("buffers"):
            if not self.zero.stage:
                self.buffers.append(torch.empty(parameter.numel(), dtype=self.sent))
            elif not self.on_gpus:  # memory that is not written to yet is none
                self.buffers.append(torch.empty(parameter.numel()))
            elif not self.buffers:
                size = self.zero.bucket(on_gpus=True)
                count = 1 + self.zero.overlaps(on_gpus=True)
                self.buffers += [torch.empty(size) for _ in range(count)]

    def reduce(self) -> None:
        """Exchange what gradients the backward passes left."""
        if not self.buffers:
            for parameter in self.trained:
                self._send(parameter)
        self.buffers.clear()

    @torch.no_grad()
    def step(self) -> None:
        """Take the optimiser's step, with gradients of all that is trained."""
        with self.memory.holding("gradients"):
            for one in self._stepped():
                if one.grad is None:
                    one.grad = torch.empty_like(one)
            flat = [torch.empty_like(one) for one in self._stepped() if self.zero.stage in (1, 2)]
        del flat
        with self.memory.holding("optimizer"):
            self.optimizer.step()
        for one in (*self._stepped(), *self.trained):
            one.grad = None
        self.passes = 0

    def _stepped(self) -> list[Tensor]:
        return [one for group in self.optimizer.param_groups for one in group["params"]]

    def on_rank(self, memory: Mapping[str, int]) -> dict[str, int]:
        """Return the bytes that a rank needs, given those with whole weights on every rank.

        Under ZeRO 3 weights that are used again soon stay gathered, up to a limit, and small ones
        stay whole.
        """
        held, zero = dict(memory), self.zero
        if zero.offload_optimizer:
            held.pop("optimizer")
        if zero.stage == 3:
            live = zero.max_live_parameters * next(self.module.parameters()).element_size()
            divided = self._divided
            held["gathered weights"] = min(held["weights"], live)
            held["weights"] -= divided
            if not zero.offload_parameters:
                held["weights"] += -(-divided // self.ranks)
            if zero.secondary_partition > 1:
                held["second copy of weights"] = -(-divided // zero.secondary_partition)
        return held

    @property
    def on_host(self) -> int:
        """Bytes that a rank needs in the memory of the host for what is offloaded.

        The optimiser's state on a disk is there too while a checkpoint is saved.
        """
        size = 0
        if self.zero.offload_optimizer:
            stepped = self._stepped()
            size += _bytes(self._state()) + 2 * _bytes(stepped)  # weights, and gradients
        if self.zero.offload_parameters and "offload_parameters" not in self.zero.disks:
            size += -(-self._divided // self.ranks)
        return size

    @property
    def on_disk(self) -> int:
        """Bytes that a rank needs on disks for what is offloaded to them."""
        size = 0
        if self.zero.from_disk:
            size += _bytes(self._state()) + _bytes(self._stepped())
        if "offload_parameters" in self.zero.disks:
            size += -(-self._divided // self.ranks)
        return size

    @property
    def moved(self) -> int:
        """Bytes that the optimiser's step reads and writes: gradients, weights and its state."""
        return 2 * _bytes(self._state()) + 3 * _bytes(self._stepped())

    @property
    def _divided(self) -> int:
        """Bytes of the weights that ZeRO 3 divides."""
        limit = self.zero.persistence_threshold
        return _bytes(one for one in self.module.parameters() if one.numel() >= limit)

    @property
    def checkpoint(self) -> int:
        """Bytes of a checkpoint, of all ranks together."""
        own = _bytes(self._state())
        if self.zero.stage:  # with the shares of float32 weights
            own = self.ranks * (own + _bytes(self._stepped()))
        return own + _bytes([*self.module.parameters(), *self.module.buffers()])

    def _state(self) -> list[Tensor]:
        each = [one for state in self.optimizer.state.values() for one in state.values()]
        return [one for one in each if isinstance(one, Tensor)]


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(one.numel() * one.element_size() for one in tensors)
