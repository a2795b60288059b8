"""Feature distillation: embeddings as near to the teacher's as may be."""

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
        self.images, self.texts = (
            nn.Identity()
            if embedding == teacher_embedding
            else nn.Linear(embedding, teacher_embedding, bias=False)
            for _ in range(2)
        )

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
