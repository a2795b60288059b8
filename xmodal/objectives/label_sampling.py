"""Triplets drawn by label, the same on any number of ranks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from xmodal.distributed.collectives import gather, world_size
from xmodal.objectives.pairs import Pairs


@dataclass(frozen=True)
class Triplets:
    """Anchors among some items; positives and negatives among others, of the same label or not."""

    anchors: Tensor  # (triplets,) int64
    positives: Tensor  # (triplets,) int64
    negatives: Tensor  # (triplets,) int64


def sample_triplets(
    labels: Tensor, candidates: Tensor, *, count: int, seed: int, same_items: bool = False
) -> Triplets:
    """Draw `count` triplets for each anchor of `labels` (anchors,) from `candidates` (items,).

    Positives are drawn uniformly, with replacement, among the candidates of the anchor's label,
    negatives among all others. With `same_items`, anchor i is candidate i, and not drawn for
    itself. Anchors without a positive or a negative have no triplets. The same labels and seed
    give the same triplets everywhere, in O((anchors × count + items) log items).
    """
    order = candidates.argsort(stable=True)
    ordered = candidates[order]
    first = torch.searchsorted(ordered, labels)
    size = torch.searchsorted(ordered, labels, right=True) - first
    limits = torch.stack([size - int(same_items), len(candidates) - size])
    anchors = (limits > 0).all(0).nonzero()[:, 0].repeat_interleave(count)
    positives, negatives = _uniform(limits[:, anchors], seed)
    first, size = first[anchors], size[anchors]
    if same_items:
        positives += positives >= order.argsort()[anchors] - first
    negatives += torch.where(negatives >= first, size, 0)
    return Triplets(anchors, order[first + positives], order[negatives])


def _uniform(limits: Tensor, seed: int) -> Tensor:
    """Return whole numbers from 0 to below each limit, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    shares = torch.rand(limits.shape, generator=generator, dtype=torch.float64)
    return (shares.to(limits.device) * limits).long()


@dataclass(frozen=True)
class LabelledBatch:
    """All ranks' x and then all ranks' y, and which of them are this rank's.

    Both are in the batch's own order, of which the loader deals rows to the ranks in turn: what is
    drawn by place is then the same on any number of ranks.
    """

    items: Tensor  # (2 × batch, dim), gradients summed over the ranks
    labels: Tensor  # (batch,) int64, of x and of y
    own: Tensor  # (2 × batch,) bool

    @classmethod
    def of(cls, x: Tensor, y: Tensor, labels: Tensor) -> "LabelledBatch":
        pairs = Pairs.of(x, y, labels)
        order = _batch_order(pairs.counts).to(labels.device)
        own = torch.zeros_like(pairs.all_ids, dtype=torch.bool)
        own[pairs.own] = True
        sides = gather(pairs.x, pairs.counts), pairs.all_y
        items = torch.cat([side.index_select(0, order) for side in sides])
        return cls(items, pairs.all_ids[order], own[order].repeat(2))

    def draw_across(self, count: int, seed: int) -> Triplets:
        """Draw `count` triplets for each x, of it and two y, and for each y, of it and two x."""
        size = len(self.labels)
        drawn = sample_triplets(self.labels.repeat(2), self.labels, count=count, seed=seed)
        # Anchors are all x and then all y, candidates all y of the former and all x of the latter.
        other = torch.where(drawn.anchors < size, size, 0)
        return Triplets(drawn.anchors, drawn.positives + other, drawn.negatives + other)

    def squared_distances(self, drawn: Triplets) -> tuple[Tensor, Tensor]:
        """Return those of this rank's anchors to their positives and to their negatives."""
        own = self.own[drawn.anchors]
        anchors = self.items.index_select(0, drawn.anchors[own])
        positive, negative = (
            (anchors - self.items.index_select(0, others[own])).square().sum(1)
            for others in (drawn.positives, drawn.negatives)
        )
        return positive, negative

    def mean(self, values: Tensor, drawn: Triplets) -> Tensor:
        """Return the rank's share of the mean over all triplets, of a value each of its own."""
        return values.sum() * (world_size() / max(1, len(drawn.anchors)))


def _batch_order(counts: list[int]) -> Tensor:
    """Return where the batch's rows, (batch,), are among those gathered in the order of ranks."""
    places = [torch.arange(count) * len(counts) + rank for rank, count in enumerate(counts)]
    return torch.cat(places).argsort()
