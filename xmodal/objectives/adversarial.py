"""Encoders against a classifier of modalities."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.distributed.collectives import mean_of_shares, row_counts, share_of_mean
from xmodal.objectives.config import AdversarialConfig
from xmodal.objectives.opponents import held_fixed
from xmodal.objectives.pairwise.tiles import precise
from xmodal.objectives.schedule import Scheduled, adversarial_ramp

IMAGE, TEXT = 0, 1  # the classifier's classes


class ModalityAdversary(Scheduled):
    """A modality classifier and the encoders that mislead it (MITE), in one backward pass.

    The classifier is trained by L_D = −(1/2B) Σᵢ [log D(img|vᵢ) + log D(txt|tᵢ)] over the global
    batch of images v and texts t; the encoders by w times

    - reversal: −L_D, by gradients reversed on their way (Ganin et al. 2016);
    - flipped: −(1/2B) Σᵢ [log D(txt|vᵢ) + log D(img|tᵢ)], which does not saturate;
    - confusion: the cross entropy to one half and one half (Tzeng et al. 2015), over both.

    The weight w is the config's, times a ramp from 0 to 1. Reversal's value is L_D; that of the
    others has the encoders' part in it, through a classifier that is fixed.
    """

    def __init__(self, config: AdversarialConfig) -> None:
        super().__init__()
        self.config = config
        self.monitors: dict[str, Tensor] = {}

    @property
    def weight(self) -> float:
        """Weight of the encoders' part at the progress of training."""
        return self.config.weight * (adversarial_ramp(self.progress) if self.config.ramp else 1)

    def forward(self, images: Tensor, texts: Tensor, classifier: nn.Module) -> Tensor:
        """Return this rank's share, (), of (batch, dim) each and a module (rows, dim) → (rows, 2).

        Batches of images and of texts may differ in size: each side counts one half.
        """
        sides = _Sides(images, texts)
        if self.config.encoders == "reversal":
            logits = precise(classifier(reverse_gradient(sides.embeddings, self.weight)))
            loss = sides.mean(F.cross_entropy(logits, sides.classes, reduction="none"))
        else:
            logits = precise(classifier(sides.embeddings.detach()))
            loss = sides.mean(F.cross_entropy(logits, sides.classes, reduction="none"))
            loss = loss + self.weight * self._misleading(sides, classifier)
        right = sides.mean((logits.argmax(1) == sides.classes).to(logits))
        self.monitors = {"adversary_accuracy": mean_of_shares(right)}
        return loss

    def _misleading(self, sides: "_Sides", classifier: nn.Module) -> Tensor:
        with held_fixed(classifier):
            logs = precise(classifier(sides.embeddings)).log_softmax(1)
        if self.config.encoders == "confusion":
            return sides.mean(-logs.mean(1))
        return sides.mean(F.nll_loss(logs, 1 - sides.classes, reduction="none"))


class _Sides:
    """Images and texts one below the other."""

    def __init__(self, images: Tensor, texts: Tensor) -> None:
        self.sizes = [len(images), len(texts)]
        self.counts = [row_counts(images), row_counts(texts)]
        self.embeddings = torch.cat([images, texts])
        classes = torch.tensor([IMAGE, TEXT], device=images.device)
        self.classes = classes.repeat_interleave(torch.tensor(self.sizes, device=images.device))

    def mean(self, values: Tensor) -> Tensor:
        """Return the share of the mean of both sides' means over the global batch."""
        sides = zip(values.split(self.sizes), self.counts, strict=True)
        return torch.stack([share_of_mean(part, counts) for part, counts in sides]).mean()


def reverse_gradient(values: Tensor, strength: float) -> Tensor:
    """Return the values; their gradient is −strength times what reaches them."""
    reversed_: Tensor = _Reversal.apply(values, strength)
    return reversed_


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradients[0], None
