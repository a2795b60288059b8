"""Supervised contrastive loss: images and texts of one id together, each contrasted with all."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from xmodal.objectives.config import ObjectiveConfig, TiledConfig
from xmodal.objectives.extra import SIDES, Extra
from xmodal.objectives.negatives import add_log_sum_exp
from xmodal.objectives.pairs import Pairs, ids_and_limit, own_ids
from xmodal.objectives.pairwise import log_sum_exp
from xmodal.objectives.pairwise.prefixes import Prefixes


class SupervisedContrastiveConfig(TiledConfig, ObjectiveConfig):
    """Every image and text against all others of both media; those of its id are positives."""

    kind: Literal["supervised_contrastive"] = "supervised_contrastive"
    temperature: PositiveFloat = Field(0.1, description="temperature of the softmax")
    builds: ClassVar[str] = "SupervisedContrastive"
    takes_extra: ClassVar[bool] = True
    takes_widths: ClassVar[bool] = True


class SupervisedContrastive(nn.Module):
    """Supervised contrastive loss (Khosla et al. 2020, arXiv 2004.11362, equation 2).

    Anchors are the 2B items z of the global batch, all x and all y:
    L = −(1/2B) Σᵢ (1/|Pᵢ|) Σ_{p∈Pᵢ} log softmax_{a≠i}(zᵢ·z_a / τ)_p, where Pᵢ are the others of its
    id, its pair's other item at least. Items of one medium are contrasted with each other too;
    `InfoNCE(positives="same_id")` is the same between the two media alone.
    """

    def __init__(self, *, temperature: float = 0.1, tile: int | None = None) -> None:
        super().__init__()
        self.temperature, self.tile = temperature, tile
        self.monitors: dict[str, Tensor] = {}

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        ids: Tensor | None = None,
        extra: Sequence[Extra] = (),
        prefixes: Prefixes | None = None,
    ) -> Tensor:
        """Return this rank's share of the loss, (), of (pairs, dim), (pairs, dim), ids (pairs,).

        `extra` columns beside y are in the softmax of each x, those beside x in that of each y.
        """
        ids, _ = ids_and_limit(ids)
        ids = own_ids(x) if ids is None else ids
        items = torch.cat([x, y])
        pairs = Pairs.of(items, items, ids.repeat(2), extra=extra, prefixes=prefixes)
        places = torch.arange(len(pairs.all_y), device=x.device)
        scale = torch.tensor([1 / self.temperature], dtype=torch.float64)
        sums, _ = log_sum_exp(
            pairs.x,
            pairs.all_y,
            # Each item has a place of its own, and is no negative of itself alone.
            (places[pairs.own], places),
            scale=scale,
            tile=self.tile,
            form=prefixes,
        )
        if extra:
            both = zip(SIDES, pairs.x.chunk(2), sums.chunk(2), strict=True)
            sums = torch.cat(
                [
                    add_log_sum_exp(
                        of_side,
                        [
                            one.negatives(own, ids, own.dtype, prefixes=prefixes)
                            for one in extra
                            if one.side == side
                        ],
                        scale,
                        self.tile,
                    )
                    for side, own, of_side in both
                ]
            )
        positives = [_mean_score_of_others(one) for one, _ in pairs.by_width()]
        of_widths = torch.stack(positives, 1) if prefixes else positives[0]
        return pairs.mean(sums - of_widths / self.temperature)


def _mean_score_of_others(items: Pairs) -> Tensor:
    """Return the mean score of each item with the others of its id, (items,)."""
    means, sizes = items.means_of_ids()
    others = (sizes[:, None] * means - items.x) / (sizes[:, None] - 1)
    return (items.x * others).sum(1)
