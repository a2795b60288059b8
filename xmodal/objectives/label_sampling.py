"""Triplets drawn by label, the same on any number of ranks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from xmodal.devices import copy_to
from xmodal.distributed.collectives import gather, world_size
from xmodal.objectives.pairs import Pairs


@dataclass(frozen=True)
class Triplets:
    """Positives and negatives of some anchors, of the same label or not."""

    positives: Tensor  # (anchors, count) int64
    negatives: Tensor  # (anchors, count) int64
    exist: Tensor  # (anchors,) bool: False where an anchor lacks either, and both mean nothing


def sample_triplets(
    labels: Tensor, candidates: Tensor, *, count: int, seed: int, same_items: bool = False
) -> Triplets:
    """Draw `count` triplets for each anchor of `labels` (anchors,) from `candidates` (items,).

    Positives are drawn uniformly, with replacement, among the candidates of the anchor's label,
    negatives among all others. With `same_items`, anchor i is candidate i, and not drawn for
    itself. The same labels and seed give the same triplets everywhere, in
    O((anchors × count + items) log items).
    """
    order = candidates.argsort(stable=True)
    ordered = candidates[order]
    first = torch.searchsorted(ordered, labels)
    size = torch.searchsorted(ordered, labels, right=True) - first
    limits = torch.stack([size - int(same_items), len(candidates) - size])
    positives, negatives = _uniform(limits, count, seed)
    first, size = first[:, None], size[:, None]
    if same_items:
        positives += positives >= order.argsort()[:, None] - first
    negatives += torch.where(negatives >= first, size, 0)
    last = len(candidates) - 1
    positives, negatives = (order[n.clamp(max=last)] for n in (first + positives, negatives))
    return Triplets(positives, negatives, exist=(limits > 0).all(0))


def _uniform(limits: Tensor, count: int, seed: int) -> Tensor:
    """Return whole numbers from 0 to below each limit, (…, count), the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    shares = torch.rand(*limits.shape, count, generator=generator, dtype=torch.float64)
    return (copy_to(limits.device, shares) * limits[..., None]).long()


@dataclass(frozen=True)
class LabelledBatch:
    """All ranks' x and then all ranks' y, and which of them are this rank's.

    Both are in the batch's own order, of which the loader deals rows to the ranks in turn: what is
    drawn by place is then the same on any number of ranks.
    """

    items: Tensor  # (2 × batch, dim), gradients summed over the ranks
    labels: Tensor  # (batch,) int64, of x and of y
    own: Tensor  # (2 × pairs,) int64: the places of this rank's

    @classmethod
    def of(cls, x: Tensor, y: Tensor, labels: Tensor) -> "LabelledBatch":
        pairs = Pairs.of(x, y, labels)
        order = batch_order(pairs.counts, labels.device)
        own = order.argsort()[pairs.own]
        sides = gather(pairs.x, pairs.counts), pairs.all_y
        items = torch.cat([side.index_select(0, order) for side in sides])
        return cls(items, pairs.all_ids[order], torch.cat([own, own + len(order)]))

    def draw_across(self, count: int, seed: int) -> Triplets:
        """Draw `count` triplets for each x, of it and two y, and for each y, of it and two x."""
        size = len(self.labels)
        drawn = sample_triplets(self.labels.repeat(2), self.labels, count=count, seed=seed)
        # Anchors are all x and then all y, candidates all y of the former and all x of the latter.
        other = (torch.arange(2 * size, device=self.own.device) < size)[:, None] * size
        return Triplets(drawn.positives + other, drawn.negatives + other, drawn.exist)

    def own_triplets(self, drawn: Triplets) -> tuple[Tensor, Tensor, Tensor]:
        """Return the anchors, positives and negatives of this rank's, (triplets,) int64 each."""
        positives, negatives = drawn.positives[self.own], drawn.negatives[self.own]
        anchors = self.own[:, None].expand_as(positives)
        return anchors.flatten(), positives.flatten(), negatives.flatten()

    def squared_distances(self, drawn: Triplets) -> tuple[Tensor, Tensor]:
        """Return those of this rank's anchors to their positives and to their negatives."""
        anchors, *others = (
            self.items.index_select(0, places) for places in self.own_triplets(drawn)
        )
        positive, negative = ((anchors - other).square().sum(1) for other in others)
        return positive, negative

    def mean(self, values: Tensor, drawn: Triplets) -> Tensor:
        """Return the rank's share of the mean over all triplets, of a value each of its own.

        Without triplets it is 0.
        """
        # The other side of an anchor's pair is a positive. All anchors lack a negative, or none.
        total = torch.where(drawn.exist.all(), values.sum(), 0)
        return total * (world_size() / max(1, drawn.positives.numel()))


def batch_order(counts: list[int], device: torch.device | None = None) -> Tensor:
    """Return where the batch's rows, (batch,), are among those gathered in the order of ranks."""
    ranks = len(counts)
    places = [torch.arange(n, device=device) * ranks + rank for rank, n in enumerate(counts)]
    return torch.cat(places).argsort()
