"""A pretended device: tensors in the host's memory that PyTorch takes for those of a device.

Operators compute what they compute on a CPU. What would make a host wait for its GPU is counted,
and what a GPU would refuse is refused, such as tensors of host and device in one operator:

    with PretendedDevice() as device:
        loss = objective(embeddings.to(NAME))
    assert not device.waits

Its type is not "cuda": what is chosen for CUDA alone, such as its kernels, is not tried.
PyTorch has to know of a device before the first backward pass of a process: call what uses it in
one of its own (`tests.processes.on_ranks`).
"""

import traceback
from collections.abc import Callable
from functools import cache, partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

NAME = "pretended"
aten, MADE = torch.ops.aten, torch.tensor
# Operators whose result, or the size of it, the host has to know.
READING = {
    aten._local_scalar_dense,
    aten._unique,
    aten._unique2,
    aten.bincount,
    aten.equal,
    aten.is_nonzero,
    aten.masked_select,
    aten.nonzero,
    aten.repeat_interleave,
    aten.unique_consecutive,
    aten.unique_dim,
}
EMPTY = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty}
COPYING = {aten._to_copy, aten.copy_}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
PACKING = {aten._pack_padded_sequence, aten._pack_padded_sequence_backward}
MIXING = COPYING | INDEXING | PACKING  # take numbers of the host beside those of the device


class PretendedTensor(Tensor):
    """A tensor of the pretended device."""

    values: Tensor  # on the host

    @staticmethod
    def __new__(cls, values: Tensor) -> Self:
        tensor = Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=torch.device(NAME, 0),
        )
        tensor.values = values
        return tensor

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return self.detach()

    @data.setter
    def data(self, other: Any) -> None:
        Tensor.data.__set__(self, other)  # type: ignore[attr-defined]
        self.values = other.values

    def record_stream(self, stream: object) -> None:  # type: ignore[override]
        pass  # memory that is the host's

    def __repr__(self) -> str:  # type: ignore[override]
        return f"PretendedTensor({self.values})"

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        raise AssertionError(f"{function} of a pretended device outside of its context")


class Work:
    """Operators launched on a stream; those of a late one are computed when it is waited for."""

    def __init__(self, *, is_late: bool = False) -> None:
        self.is_late, self.queue = is_late, list[Callable[[], object]]()

    def launch(self, function: Any, call: Callable[[], Any], written: Tensor | None) -> Any:
        """Return the results of an operator, or NaN until it is computed."""
        if not self.is_late or function.overloadpacket in EMPTY:
            return call()
        if function.namespace == "c10d":  # collectives are no later on one rank than on another
            self.finish()
            return call()
        schema = function._schema
        if schema.is_mutable:
            self.queue.append(call)
            return written if schema.returns else None
        found = call()
        if any(one.alias_info for one in schema.returns):  # a view, of what is computed later
            return found
        made = [one for one in tree_leaves(found) if isinstance(one, Tensor)]
        self.queue.append(partial(_fill, made, call))
        for one in made:
            one.fill_(torch.nan if one.is_floating_point() else 0)
        return found

    def finish(self) -> None:
        """Compute what is late."""
        queue, self.queue = self.queue, []
        for call in queue:
            call()


class PretendedDevice(TorchDispatchMode):
    """Context in which the device exists, and what the host waited for within."""

    def __init__(self, *, is_late: bool = False) -> None:
        super().__init__()
        _register()
        self.waits: list[str] = []  # operators, and the lines of the product that called them
        self.reads: list[str] = []  # copies to the host that it may wait for later
        self.draws: list[str] = []  # of random numbers, by objectives: others than on the host
        self.default = self.work = Work(is_late=is_late)  # of the current stream

    def __enter__(self) -> Self:
        torch.tensor = _made_on_host
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        torch.tensor = MADE
        super().__exit__(*error)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operator on the host's values."""
        kwargs = kwargs or {}
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        is_own = any(isinstance(one, PretendedTensor) for one in tensors)
        device = kwargs.get("device")
        to_own = device is not None and torch.device(device).type == NAME
        if not is_own and not to_own:
            return function(*args, **kwargs)
        operator = function.overloadpacket
        if operator not in MIXING:
            _refuse_mixing(function, tensors)
        if operator in COPYING:
            self._count_copy(operator, args, kwargs)
        elif _waits(operator, args, kwargs):
            self.waits.append(_call(operator))
        if torch.Tag.nondeterministic_seeded in function.tags and _is_of_an_objective():
            self.draws.append(_call(operator))
        known = {id(values_of(one)): one for one in tensors}
        args, kwargs = tree_map_only(PretendedTensor, values_of, (args, kwargs))
        kernel = CELLS.get(operator, function)
        kwargs |= {"device": "cpu"} if to_own else {}
        written = next((one for one in tree_leaves(args) if isinstance(one, Tensor)), None)
        if (device is not None and not to_own) or operator in READING:  # the host has the result
            self.work.finish()
            found = kernel(*args, **kwargs)
        else:
            found = self.work.launch(function, partial(kernel, *args, **kwargs), written)
        if device is not None and not to_own:
            return found
        if operator is aten._pack_padded_sequence:
            return PretendedTensor(found[0]), found[1]  # sizes stay on the host
        return tree_map_only(
            Tensor, lambda one: known[id(one)] if id(one) in known else PretendedTensor(one), found
        )

    def _count_copy(self, operator: Any, args: Any, kwargs: Any) -> None:
        if operator is aten.copy_:
            to, source, is_free = args[0].device, args[1], (*args, False)[2]
        else:
            to, source = kwargs.get("device") or args[0].device, args[0]
            is_free = kwargs.get("non_blocking")
        to_host, from_host = (torch.device(one).type == "cpu" for one in (to, source.device))
        if to_host != from_host and not is_free:
            self.waits.append(_call(operator))
        elif to_host and not from_host:
            self.reads.append(_call(operator))


def _fill(tensors: list[Tensor], call: Callable[[], Any]) -> None:
    for tensor, values in zip(tensors, tree_leaves(call()), strict=True):
        tensor.copy_(values)


def _made_on_host(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:
    """Make a tensor as PyTorch does: on the host, from where it is copied to the device."""
    made = MADE(*args, **kwargs)
    return made if device is None else made.to(device)


def to_device(module: nn.Module) -> None:
    """Move a module to the device, in place; parameters that are one stay one."""
    moved: dict[int, Tensor] = {}

    def move(tensor: Tensor) -> Tensor:
        if id(tensor) not in moved:
            on_device = PretendedTensor(tensor.detach())
            is_parameter = isinstance(tensor, nn.Parameter)
            moved[id(tensor)] = (
                nn.Parameter(on_device, tensor.requires_grad) if is_parameter else on_device
            )
        return moved[id(tensor)]

    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = move(tensor)  # type: ignore[assignment]


def values_of(tensor: Tensor) -> Tensor:
    """Return a tensor's values on the host."""
    return tensor.values if isinstance(tensor, PretendedTensor) else tensor


def _refuse_mixing(function: Any, tensors: list[Tensor]) -> None:
    """Raise `RuntimeError` for tensors of the host; numbers, (), are passed by value."""
    if any(one.ndim and not isinstance(one, PretendedTensor) for one in tensors):
        raise RuntimeError(f"{function}: expected all tensors to be on the same device")


def _waits(operator: Any, args: Any, kwargs: Any) -> bool:
    if operator is aten.repeat_interleave:
        return kwargs.get("output_size") is None
    return operator in READING or (operator in INDEXING and _index_waits(operator, args))


def _index_waits(operator: Any, args: Any) -> bool:
    """Return whether places have to be counted, or copied from the host."""
    indices = [one for one in args[1] if one is not None]
    is_fill = operator is not aten.index and len(indices) == 1 and args[2].numel() == 1
    return any(
        (one.dtype in (torch.bool, torch.uint8) and not is_fill)
        or not isinstance(one, PretendedTensor)
        for one in indices
    )


def _is_of_an_objective() -> bool:
    return any("/xmodal/objectives/" in one.filename for one in traceback.extract_stack())


def _call(operator: Any) -> str:
    """Return an operator and the line of the product that called it."""
    frames = [one for one in traceback.extract_stack() if "/xmodal/" in one.filename]
    place = f"{frames[-1].filename.rpartition('/xmodal/')[2]}:{frames[-1].lineno}" if frames else ""
    return f"{operator} {place}"


class _Module(backend_registration._DummyBackendModule):
    """What PyTorch asks of a kind of device."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


@cache
def _register() -> None:
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module())


# Cells of recurrent networks, which PyTorch has as kernels of devices alone. Gates with their
# biases are what backward passes need of the forward pass.


def _gru_cell(
    inputs: Tensor, hidden: Tensor, state: Tensor, *biases: Tensor | None
) -> tuple[Tensor, Tensor]:
    gates = _biased(inputs, hidden, *biases)
    (r, z, n), (hidden_r, hidden_z, hidden_n) = (one.chunk(3, 1) for one in gates)
    r, z = (r + hidden_r).sigmoid(), (z + hidden_z).sigmoid()
    n = (n + r * hidden_n).tanh()
    return n + z * (state - n), torch.cat([*gates, state], 1)


def _gru_cell_backward(
    gradient: Tensor, workspace: Tensor, has_bias: bool
) -> tuple[Tensor | None, ...]:
    width = gradient.shape[1]
    gates = workspace.split([3 * width, 3 * width, width], 1)
    by = aten._thnn_differentiable_gru_cell_backward(gradient, *gates, None, None)[:3]
    return *by, *((one.sum(0) if has_bias else None) for one in by[:2])


def _lstm_cell(
    inputs: Tensor, hidden: Tensor, state: Tensor, *biases: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    gates = sum(_biased(inputs, hidden, *biases))
    i, f, g, o = gates.chunk(4, 1)
    new = f.sigmoid() * state + i.sigmoid() * g.tanh()
    return o.sigmoid() * new.tanh(), new, gates


def _lstm_cell_backward(
    gradient: Tensor, by_state: Tensor, state: Tensor, new: Tensor, gates: Tensor, has_bias: bool
) -> tuple[Tensor | None, ...]:
    by_gates, _, by_old, *_ = aten._thnn_differentiable_lstm_cell_backward(
        gradient, by_state, gates, torch.zeros_like(gates), None, None, state, new
    )
    return by_gates, by_old, by_gates.sum(0) if has_bias else None


def _biased(
    inputs: Tensor, hidden: Tensor, of_inputs: Tensor | None = None, of_hidden: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    if of_inputs is None or of_hidden is None:
        return inputs, hidden
    return inputs + of_inputs, hidden + of_hidden


CELLS = {
    aten._thnn_fused_gru_cell: _gru_cell,
    aten._thnn_fused_gru_cell_backward: _gru_cell_backward,
    aten._thnn_fused_lstm_cell: _lstm_cell,
    aten._thnn_fused_lstm_cell_backward_impl: _lstm_cell_backward,
}
