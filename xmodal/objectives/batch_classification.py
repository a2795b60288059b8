"""Batch-based classification: each query's target among all targets of the batch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.objectives.config import MatmulDtype, check_choice
from xmodal.objectives.numerics import log1p_exp
from xmodal.objectives.pairs import Pairs
from xmodal.objectives.pairwise import log_sum_exp


class BatchClassification(nn.Module):
    """Cross-entropy over the targets of the batch (TIRG, Vo et al. 2019, arXiv 1812.07119).

    L = −(1/B) Σᵢ log softmaxⱼ(s² cos(xᵢ, yⱼ))ᵢ over the global batch, of queries x among targets y
    alone; s is the learned norm that both sides are scaled to. Other pairs of the same id are no
    negatives.
    """

    def __init__(
        self,
        *,
        norm: float = 4.0,
        matmul_dtype: MatmulDtype = "float32",
        tile: int | None = None,
    ) -> None:
        super().__init__()
        check_choice("matmul_dtype", matmul_dtype, MatmulDtype)
        self.matmul_dtype, self.tile = matmul_dtype, tile
        # One element rather than none: ZeRO cannot partition a parameter without dimensions.
        self.norm = nn.Parameter(torch.tensor([float(norm)]))
        self.monitors: dict[str, Tensor] = {}

    def forward(self, x: Tensor, y: Tensor, ids: Tensor | None = None) -> Tensor:
        """Return this rank's share of the loss, (), of (pairs, dim), (pairs, dim), ids (pairs,)."""
        self.monitors = {"norm": self.norm.detach().clone()}
        scale = self.norm.square()
        pairs = Pairs.of(F.normalize(x), F.normalize(y), ids, self.matmul_dtype)
        rows, _ = log_sum_exp(pairs.rows, pairs.all_y, pairs.both_ids, scale=scale, tile=self.tile)
        return pairs.mean(log1p_exp(rows - scale * pairs.positive_scores))
