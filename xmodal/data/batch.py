"""A batch of pairs as it travels from the loader to the device."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Fault:
    """A sample that could not be used: where it stands and why."""

    shard: str
    key: str
    cause: str

    def __str__(self) -> str:
        # Names in foreign tars need not be UTF-8, but a line in a log does.
        key = self.key.encode("utf-8", "backslashreplace").decode()
        return f"{self.shard}, {key}: {self.cause}"


@dataclass
class Batch:
    """Images, captions, or both, of `batch` samples; what is absent is None.

    A sample comes as an image or, where its encoder is locked and its features are cached, as the
    image's features; its caption likewise.
    """

    images: Tensor | None = None  # (batch, 3, height, width) uint8
    tokens: Tensor | None = None  # (batch, length) int64, padded to the longest of the batch
    token_mask: Tensor | None = None  # (batch, length) bool, False on padding
    image_features: Tensor | None = None  # (batch, features) float32
    text_features: Tensor | None = None  # (batch, features) float32
    image_ids: Tensor | None = None  # (batch,) int64, equal for equal images
    faults: tuple[Fault, ...] = ()  # samples whose slots are filled by a neighbour

    def to(self, device: torch.device) -> "Batch":
        """Return the batch with its tensors on `device`, copied while the device computes."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """Return the batch in page-locked memory; called by the loader where there is a GPU."""
        return self._map(Tensor.pin_memory)

    def _map(self, change) -> "Batch":  # type: ignore[no-untyped-def]
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return Batch(**{k: change(v) if isinstance(v, Tensor) else v for k, v in values.items()})
