"""Model FLOPs of a training step, by part.

Model FLOPs are what the forward and backward passes of the mathematics need: nothing that is
computed again to save memory counts (PaLM: Chowdhery et al. 2022, arXiv 2204.02311, appendix B).
Matrix products, convolutions and attention are counted, a multiplication and an addition as two.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from xmodal.costs.count import count_encoding, count_objective, on_meta, without_weights
from xmodal.data.batch import Batch
from xmodal.devices import has_values
from xmodal.methods.method import Method
from xmodal.models.layer_groups import encoders_of

ENOUGH = 3  # values that determine a quadratic polynomial
SIZES = (8, 16, 24)  # batches that objectives are counted on
TILE = 65536  # of so few rows, so that a million proxies take few tiles

Counts = Mapping[str, float]  # FLOPs by part


@dataclass(frozen=True)
class Flops:
    """FLOPs by part: `image`, `text`, `heads` (with fusion and critics) and `objective`."""

    forward: Counts
    backward: Counts

    @property
    def total(self) -> float:
        """FLOPs of both passes over all parts."""
        return sum(self.forward.values()) + sum(self.backward.values())


def flops_of_step(method: Method, batch: Batch) -> Flops:
    """Return the model FLOPs of a step over the batch of all ranks together.

    Tensors of the batch may be on the meta device: only shapes and masks of texts are read.
    """
    return StepFlops(method).of(batch, batch.size)


class StepFlops:
    """FLOPs of a method's steps, by which parts are trained and which losses are active now.

    It keeps a copy of the method without weights. FLOPs are quadratic in the length of texts, and
    those of objectives in the size of the batch: three counts of each give all others. The
    backward pass of an objective counts as twice its forward pass.
    """

    def __init__(self, method: Method) -> None:
        self.encoding = without_weights(method, ["image", "text", "heads"])
        self.objective = without_weights(method, ["image", "text"])
        self.objective.make_room(max(SIZES))
        for part in self.objective.modules():
            if getattr(part, "tile", 0) is None:
                part.tile = TILE  # type: ignore[assignment]
        self.packs = any(encoder.skips_padding for encoder in encoders_of(method).values())
        self.by_length: dict[int, Flops] = {}  # of one sample
        self.by_size: dict[int, Flops] = {}

    def of(self, batch: Batch, size: int) -> Flops:
        """Return the FLOPs of a step over `size` samples, given a part of them."""
        lengths = self._lengths(batch)
        parts = [(self._encoding(batch, length), size / len(lengths)) for length in lengths]
        return _sum([*parts, (self._objective(batch, size), 1)])

    def _encoding(self, batch: Batch, length: float) -> Flops:
        """Return the FLOPs of encoding one sample with captions of a length."""
        for whole in {math.floor(length), math.ceil(length)} - self.by_length.keys():
            if len(self.by_length) < ENOUGH:
                counts = count_encoding(self.encoding, on_meta(batch, rows=2, length=whole))
                self.by_length[whole] = _sum([(Flops(*counts), 1 / 2)])
        return _interpolated(self.by_length, length)

    def _objective(self, batch: Batch, size: int) -> Flops:
        if not self.by_size:
            with torch.no_grad():
                embeddings = self.encoding.encode(on_meta(batch, rows=2, length=2))
            for number in SIZES:
                forward = count_objective(self.objective, embeddings, number)
                self.by_size[number] = Flops({"objective": forward}, {"objective": 2 * forward})
        return _interpolated(self.by_size, size)

    def _lengths(self, batch: Batch) -> list[float]:
        """Return how long the captions of each view count as."""
        views = batch.texts, batch.second_texts
        masks = [(mask, lengths) for _, mask, lengths in views if mask is not None]
        return [self._length(*one) for one in masks] or [0]

    def _length(self, mask: Tensor, lengths: Tensor | None) -> float:
        if not self.packs or not has_values(mask):
            return mask.shape[1]
        # Of a batch on a device they are known on the host: nothing waits for the mask.
        return float((mask.sum(1) if lengths is None else lengths).sum() / len(mask))


def _sum(terms: list[tuple[Flops, float]]) -> Flops:
    """Return the sum of FLOPs, each times a factor."""

    def of(attribute: str) -> Counts:
        total: dict[str, float] = {}
        for flops, factor in terms:
            for part, count in getattr(flops, attribute).items():
                total[part] = total.get(part, 0) + factor * count
        return total

    return Flops(of("forward"), of("backward"))


def _interpolated(known: Mapping[int, Flops], at: float) -> Flops:
    """Return the value at a place of the polynomial through known values (Lagrange)."""
    terms = []
    for place, flops in known.items():
        factor = 1.0
        for other in known:
            if other != place:
                factor *= (at - other) / (place - other)
        terms.append((flops, factor))
    return _sum(terms)
