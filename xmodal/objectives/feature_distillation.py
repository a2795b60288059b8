"""Feature distillation: embeddings as near to the teacher's as may be."""

from typing import Self

import torch
from torch import Tensor, nn

from xmodal.distributed.collectives import row_counts, share_of_mean
from xmodal.objectives.numerics import unit
from xmodal.objectives.pairwise.tiles import precise


class FeatureDistillation(nn.Module):
    """Feature distillation (FD of Yang et al. 2024, arXiv 2307.12732, equation 8).

    L = ½ (1/B) Σᵢ ‖u(P xᵢ) − u(x̂ᵢ)‖² + ‖u(Q yᵢ) − u(ŷᵢ)‖² over the global batch, x̂ and ŷ the
    teacher's embeddings, u(v) = v/‖v‖. P and Q are linear and learned where the two spaces differ
    in dimensions; where they do not, the student's space becomes the teacher's.
    """

    def __init__(self, *, embedding: int, teacher_embedding: int) -> None:
        super().__init__()
        self.teacher_embedding = teacher_embedding
        self.images, self.texts = (
            nn.Identity()
            if embedding == teacher_embedding
            else nn.Linear(embedding, teacher_embedding, bias=False)
            for _ in range(2)
        )

    def cut(self, width: int) -> Self:
        """Return it for the first `width` numbers of the student's embeddings."""
        left = type(self)(embedding=width, teacher_embedding=self.teacher_embedding)
        for old, new in ((self.images, left.images), (self.texts, left.texts)):
            if isinstance(new, nn.Linear):
                whole = old.weight if isinstance(old, nn.Linear) else torch.eye(len(new.weight))
                new.weight = nn.Parameter(whole[:, :width].detach().to(new.weight))
        return left

    def forward(self, x: Tensor, y: Tensor, teacher_x: Tensor, teacher_y: Tensor) -> Tensor:
        """Return this rank's share of the loss, (), of (pairs, dim) twice, and of the teacher's
        (pairs, dim of the teacher) twice.
        """
        sides = ((self.images(x), teacher_x), (self.texts(y), teacher_y))
        distances = [
            (unit(precise(student)) - unit(precise(teacher.detach()))).square().sum(1)
            for student, teacher in sides
        ]
        return share_of_mean(distances[0] + distances[1], row_counts(x)) / 2
