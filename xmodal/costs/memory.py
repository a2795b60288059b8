"""Memory of tensors while code runs: how much is in use at most, and what it holds.

Works on tensors without values (`FakeTensorMode`) as on others: what counts are storages, from the
operation that makes them until nothing refers to them. Memory that operations use inside is not
seen.
"""

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Storage = torch.UntypedStorage


class MemoryTracker(TorchDispatchMode):
    """Bytes in use, by what they hold: the label of the block that made them.

    `operations` counts those that computed something: views do not. `peak` is that of the moment at
    which all labels together had most, `most` what each had at most in moments of its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.label = "other"
        self.operations = 0
        self.now: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self._labels: dict[int, tuple[weakref.ref[Storage], str, int]] = {}

    @contextmanager
    def holding(self, label: str) -> Iterator[None]:
        """Count what is made in the block under a label."""
        before, self.label = self.label, label
        try:
            yield
        finally:
            self.label = before

    def relabel(self, tensor: Tensor, label: str) -> None:
        """Count a tensor's storage under a label from now on."""
        storage = tensor.untyped_storage()
        if found := self._labels.pop(id(storage), None):
            _, old, size = found
            self.now[old] -= size
        self._add(storage, label)

    def begin(self) -> None:
        """Forget the peaks of what ran before."""
        self.peak, self.most = +self.now, +self.now

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        before = len(self._labels)
        for one in tree_leaves(result):
            if isinstance(one, Tensor) and id(storage := one.untyped_storage()) not in self._labels:
                self._add(storage, self.label)
        self.operations += len(self._labels) > before or func._schema.is_mutable
        return result

    def _add(self, storage: Storage, label: str) -> None:
        key, size = id(storage), storage.nbytes()
        reference = weakref.ref(storage, lambda _: self._free(key))
        self._labels[key] = reference, label, size
        self.now[label] += size
        self.most[label] = max(self.most[label], self.now[label])
        if self.now.total() > self.peak.total():
            self.peak = +self.now

    def _free(self, key: int) -> None:
        if found := self._labels.pop(key, None):
            _, label, size = found
            self.now[label] -= size
