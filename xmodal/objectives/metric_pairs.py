"""A learned similarity: a metric network classifies pairs as of the same label or not."""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from xmodal.components.component import Buildable
from xmodal.distributed.collectives import mean_of_shares
from xmodal.objectives.config import check_choice
from xmodal.objectives.label_sampling import LabelledBatch
from xmodal.objectives.pairwise.tiles import precise

PairLoss = Literal["cross_entropy", "hinge"]


class MetricPairsConfig(Buildable):
    """Pairs drawn by label, classified as similar or not by a metric network (UNCSM)."""

    kind: Literal["metric_pairs"] = "metric_pairs"
    count: PositiveInt = Field(
        3, description="similar pairs drawn for each image and text, and as many dissimilar ones"
    )
    loss: PairLoss = Field(
        "cross_entropy", description="loss of the classes; hinge: of the difference of their logits"
    )
    builds: ClassVar[str] = "MetricPairs"


class MetricPairs(nn.Module):
    """The loss of a metric network by pairs (UNCSM, Qi et al. 2017, arXiv 1704.04333).

    For each image v and each text t of the global batch, `count` partners of the other medium that
    bear its label are drawn, and as many that do not. Over these pairs P, half of them similar,
    with f the network's logit of similar less that of dissimilar, L is

    - `cross_entropy`: −(1/|P|) Σ log p(similar or not | v, t), p(similar | v, t) = σ(f);
    - `hinge`: (1/|P|) (Σ [1 − f]₊ over the similar + Σ [1 + f]₊ over the dissimilar).

    The pairs are those of the double triplet loss of the same count and seed.
    """

    def __init__(self, *, count: int = 3, loss: PairLoss = "cross_entropy") -> None:
        super().__init__()
        check_choice("loss", loss, PairLoss)
        self.count, self.loss = count, loss
        self.monitors: dict[str, Tensor] = {}

    def forward(
        self, x: Tensor, y: Tensor, labels: Tensor, network: nn.Module, seed: int
    ) -> Tensor:
        """Return this rank's share, (), of images and texts (pairs, dim) with labels (pairs,).

        The network makes of images (n, dim) and texts (n, dim) logits (n, 2): dissimilar, similar.
        `seed` is of the pairs, and the same on all ranks.
        """
        batch = LabelledBatch.of(x, y, labels)
        drawn = batch.draw_across(self.count, seed)
        anchors, positives, negatives = batch.own_triplets(drawn)
        anchors, partners = anchors.repeat(2), torch.cat([positives, negatives])
        # Of the batch's items, images come before texts.
        images = batch.items.index_select(0, torch.minimum(anchors, partners))
        texts = batch.items.index_select(0, torch.maximum(anchors, partners))
        logits = precise(network(images, texts))
        similar = torch.zeros_like(anchors)
        similar[: len(similar) // 2] = 1
        right = (logits.argmax(1) == similar).to(logits)
        self.monitors = {"metric_accuracy": mean_of_shares(batch.mean(right, drawn) / 2)}
        return batch.mean(self._costs(logits, similar), drawn) / 2

    def _costs(self, logits: Tensor, similar: Tensor) -> Tensor:
        if self.loss == "cross_entropy":
            return F.cross_entropy(logits, similar, reduction="none")
        difference = logits[:, 1] - logits[:, 0]
        return F.relu(1 - (2 * similar - 1) * difference)
