"""The contrastive objective over all training samples, estimated from batches of any size."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from xmodal.objectives.config import MatmulDtype, ObjectiveConfig, PairwiseConfig, check_choice
from xmodal.objectives.learned_scale import clamped_exp
from xmodal.objectives.moving_estimates import MovingEstimates
from xmodal.objectives.pairs import Pairs
from xmodal.objectives.pairwise import log_sum_exp, num_negatives
from xmodal.objectives.pairwise.prefixes import Prefixes, check_widths_kept
from xmodal.objectives.warmup import Scheduled, cosine_decay


class GlobalContrastiveConfig(PairwiseConfig, ObjectiveConfig):
    """Contrast with all training samples, by moving averages of each (SogCLR, FastCLIP)."""

    kind: Literal["global_contrastive"] = "global_contrastive"
    scale: PositiveFloat = Field(1 / 0.07, description="inverse temperature, or its initial value")
    max_scale: PositiveFloat = Field(100.0, description="greatest inverse temperature")
    rho: float | None = Field(
        None,
        ge=0,
        description="learn the temperature, with the robust loss's penalty rho (FastCLIP-v3: 6.5 "
        "of 3 million samples, 8.5 of 12, 11 of 315); null: it is constant",
    )
    gamma: float = Field(
        0.2, gt=0, le=1, description="weight of a new value in a sample's moving average"
    )
    gamma_decay: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of a stage in which that weight falls from 1 to gamma by a cosine; 0: "
        "it is gamma from the start",
    )
    epsilon: float = Field(
        1e-14, ge=0, lt=1, description="added to averages, so that none is divided by 0"
    )
    builds: ClassVar[str] = "GlobalContrastive"
    takes_widths: ClassVar[bool] = True

    def build_for_widths(self, widths: Sequence[int]) -> Any:
        """Return an instance with averages of each width."""
        return self.build(num_widths=len(widths))


class GlobalContrastive(Scheduled):
    """Global contrastive loss (SogCLR: Yuan et al. 2022, arXiv 2202.12387; FastCLIP: Wei et al.
    2024, arXiv 2407.01445).

    With temperature τ, g₁ᵢ the mean of exp((xᵢ·yⱼ − xᵢ·yᵢ) / τ) over all negatives j of the data,
    and g₂ᵢ that of exp((xⱼ·yᵢ − xᵢ·yᵢ) / τ), L = mean of τ (½ log(ε + g₁ᵢ) + ½ log(ε + g₂ᵢ)), the
    mean of both directions where the papers take their sum. A batch has few of the negatives:
    moving averages u of each sample's g over the steps stand for them,
    uᵢ ← (1 − γ) uᵢ + γ gᵢ(batch), and the gradient is that of τ g₁ᵢ / (ε + u₁ᵢ), so that it does
    not depend on how large a batch is (SogCLR, algorithm 1). γ falls by a cosine (FastCLIP,
    section 4). With `rho`, τ is learned, by the loss plus τ ρ (FastCLIP-v3, equation 4).

    The value is that of the averages. Pairs of equal ids are no negatives.
    """

    def __init__(
        self,
        *,
        scale: float = 1 / 0.07,
        max_scale: float = 100.0,
        rho: float | None = None,
        gamma: float = 0.2,
        gamma_decay: float = 0.5,
        epsilon: float = 1e-14,
        matmul_dtype: MatmulDtype = "float32",
        tile: int | None = None,
        num_samples: int = 0,
        num_widths: int = 1,
    ) -> None:
        super().__init__()
        check_choice("matmul_dtype", matmul_dtype, MatmulDtype)
        self.max_scale, self.rho, self.epsilon = max_scale, rho, epsilon
        self.gamma, self.gamma_decay = gamma, gamma_decay
        self.matmul_dtype, self.tile = matmul_dtype, tile
        log_scale = torch.tensor([math.log(scale)])
        if rho is None:
            self.register_buffer("log_scale", log_scale)
        else:
            self.log_scale = nn.Parameter(log_scale)
        # Of g by rows and by columns, at each of the widths that it is called with.
        self.averages = MovingEstimates(2 * num_widths, num_samples)
        self.monitors: dict[str, Tensor] = {}

    def cut(self, width: int) -> None:
        """Leave averages of one width, which are yet to come."""
        del width
        self.averages = MovingEstimates(2)

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        ids: Tensor | None = None,
        samples: Tensor | None = None,
        prefixes: Prefixes | None = None,
    ) -> Tensor:
        """Return this rank's share of the loss, (), of (pairs, dim), (pairs, dim), ids (pairs,).

        `samples` (pairs,) int64 are the numbers of the pairs among all `num_samples`.
        """
        if samples is None:
            raise ValueError("samples, the numbers of the pairs among all samples, are missing")
        scale = clamped_exp(self.log_scale, self.max_scale)
        weight = cosine_decay(self.progress, self.gamma_decay, self.gamma)
        check_widths_kept("num_widths", self.averages.values // 2, prefixes)
        pairs = Pairs.of(x, y, ids, self.matmul_dtype, prefixes=prefixes)
        logs, counts = self._log_means(pairs, scale)
        averages = self.averages(samples, logs.detach(), weight, pairs.counts)
        self.monitors = {"temperature": 1 / scale.detach()}
        alone = counts == 0
        costs = self._costs(logs.masked_fill(alone, 0), averages, alone, 1 / scale)
        of_widths = costs.unflatten(0, (2, -1)).mean(0)
        return pairs.mean(of_widths.T if prefixes else of_widths[0])

    def _log_means(self, pairs: Pairs, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return log g₁ and log g₂ of the batch at each width, (2 · widths, pairs), and how many
        negatives each pair has.
        """
        rows, columns = log_sum_exp(
            pairs.rows,
            pairs.all_y,
            pairs.both_ids,
            scale=scale,
            tile=self.tile,
            form=pairs.prefixes,
        )
        counts = num_negatives(*pairs.both_ids)
        sums = torch.stack([rows, columns[pairs.own]]) - scale * pairs.positive_scores
        by_value = sums.mT.flatten(0, 1) if pairs.prefixes else sums
        return by_value - counts.clamp(min=1).to(sums).log(), counts

    def _costs(self, logs: Tensor, averages: Tensor, alone: Tensor, temperature: Tensor) -> Tensor:
        """Return τ (log(ε + u) + ρ), (2 · widths, pairs), with the gradient of τ g / (ε + u).

        It is τ ρ of pairs without negatives in the batch.
        """
        epsilon = averages.new_full((), math.log(self.epsilon) if self.epsilon else -math.inf)
        whole = torch.logaddexp(averages, epsilon).masked_fill(alone, 0)
        now = logs.detach()
        change = (now - whole).exp() * (logs - now)
        return temperature * (whole + (self.rho or 0)) + temperature.detach() * change
