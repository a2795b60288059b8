"""Encoders against a classifier of modalities."""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from xmodal.components.component import Buildable
from xmodal.devices import copy_to
from xmodal.distributed.collectives import mean_of_shares, rank, row_counts, share_of_mean
from xmodal.objectives.config import check_choice
from xmodal.objectives.frozen import frozen_parameters
from xmodal.objectives.label_sampling import batch_order
from xmodal.objectives.pairwise.tiles import precise

EncoderLoss = Literal["reversal", "flipped", "confusion"]


class AdversarialConfig(Buildable):
    """Embeddings that do not show whether they are of an image or of a text (MITE)."""

    encoders: EncoderLoss = Field(
        "reversal",
        description="loss of the encoders: the classifier's gradient reversed; its loss with "
        "swapped labels; its loss against one half",
    )
    builds: ClassVar[str] = "ModalityAdversary"


IMAGE, TEXT = 0, 1  # the classifier's classes
STEP = 0.1  # between the two values of a slope, by the length of embeddings


class ModalityClassification(nn.Module):
    """The loss of the modality classifier alone (MITE).

    L_D = −(1/2B) Σᵢ [log D(img|vᵢ) + log D(txt|tᵢ)] over the global batch of images v and texts t,
    which are given no gradient.

    With `penalty` γ, γ/2 times the mean of (r·∇d)² is added, where d = log D(img|e) − log D(txt|e)
    and r is a random direction, normal and of mean square length 1: ‖∇d‖²/dim in expectation. It is
    R₁ and R₂ of Mescheder et al. (2018, arXiv 1801.04406), without which encoders and classifier
    circle each other: a classifier that is penalised has a slope in proportion to what separates
    the modalities, so that the encoders' steps end where nothing does. The slope is taken as the
    difference of two values, `STEP` apart, since ZeRO 3 has no gradients of gradients.
    """

    def __init__(self, *, penalty: float = 0.0) -> None:
        super().__init__()
        self.penalty = penalty
        self.monitors: dict[str, Tensor] = {}

    def forward(
        self, images: Tensor, texts: Tensor, classifier: nn.Module, seed: int = 0
    ) -> Tensor:
        """Return this rank's share, (), of images and texts, and a module (rows, dim) → (rows, 2).

        Both are (batch, dim), or (batch, K, dim), whose K embeddings count as so many rows. The
        batches may differ in size: each side counts one half. Directions follow from the seed and
        the global batch, on any number of ranks.
        """
        sides = _Sides(images.detach(), texts.detach())
        points = [sides.embeddings]
        if self.penalty:
            points.append(sides.embeddings + STEP * sides.directions(seed))
        logits, *moved = precise(classifier(torch.cat(points))).chunk(len(points))
        correct = sides.mean((logits.argmax(1) == sides.classes).to(logits))
        self.monitors = {"adversary_accuracy": mean_of_shares(correct)}
        loss = sides.mean(F.cross_entropy(logits, sides.classes, reduction="none"))
        for one in moved:
            slopes = (one - logits).diff(dim=1).squeeze(1) / STEP
            loss = loss + self.penalty / 2 * sides.mean(slopes.square())
        return loss


class ModalityAdversary(nn.Module):
    """The loss of encoders that mislead the modality classifier, which is frozen (MITE).

    - `reversal`: −L_D, whose gradient is that of a reversal layer (Ganin et al. 2016);
    - `flipped`: −(1/2B) Σᵢ [log D(txt|vᵢ) + log D(img|tᵢ)], which does not saturate;
    - `confusion`: the cross entropy to one half and one half (Tzeng et al. 2015), over both.
    """

    def __init__(self, *, encoders: EncoderLoss = "reversal") -> None:
        super().__init__()
        check_choice("encoders", encoders, EncoderLoss)
        self.encoders = encoders

    def forward(self, images: Tensor, texts: Tensor, classifier: nn.Module) -> Tensor:
        """Return this rank's share, (); the arguments are those of `ModalityClassification`."""
        sides = _Sides(images, texts)
        with frozen_parameters(classifier):
            logs = precise(classifier(sides.embeddings)).log_softmax(1)
        match self.encoders:
            case "reversal":
                return -sides.mean(F.nll_loss(logs, sides.classes, reduction="none"))
            case "flipped":
                return sides.mean(F.nll_loss(logs, 1 - sides.classes, reduction="none"))
            case "confusion":
                return sides.mean(-logs.mean(1))


class _Sides:
    """Images and texts, concatenated."""

    def __init__(self, images: Tensor, texts: Tensor) -> None:
        self.widths = [side.shape[1] if side.ndim == 3 else 1 for side in (images, texts)]
        images, texts = images.flatten(0, -2), texts.flatten(0, -2)
        sides = (images, IMAGE), (texts, TEXT)
        self.sizes = [len(images), len(texts)]
        self.counts = [row_counts(images), row_counts(texts)]
        self.embeddings = torch.cat([images, texts])
        classes = (side.new_full((len(side),), one, dtype=torch.int64) for side, one in sides)
        self.classes = torch.cat([*classes])

    def directions(self, seed: int) -> Tensor:
        """Return random directions, one a row, the same on any number of ranks.

        They are drawn in the batch's own order, of which the loader deals items to ranks in turn.
        """
        like, dim = self.embeddings, self.embeddings.shape[1]
        generator = torch.Generator().manual_seed(seed)
        own = []
        for rows, width in zip(self.counts, self.widths, strict=True):
            items = [count // width for count in rows]
            shape = (sum(items), width, dim)
            drawn = torch.randn(shape, generator=generator, dtype=like.dtype)
            places = batch_order(items, drawn.device).argsort().split(items)[rank()]
            own.append(drawn[places].flatten(0, 1))
        return copy_to(like.device, torch.cat(own) / dim**0.5)

    def mean(self, values: Tensor) -> Tensor:
        """Return the share of the mean of both sides' means over the global batch."""
        sides = zip(values.split(self.sizes), self.counts, strict=True)
        return torch.stack([share_of_mean(part, counts) for part, counts in sides]).mean()
