"""Base class of methods: encoding of samples, losses over a batch, scores."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from xmodal.data.batch import Batch, BatchSpec
from xmodal.methods.scores import Score, dot_product
from xmodal.objectives.training_state import TrainingState
from xmodal.objectives.warmup import Scheduled

T = TypeVar("T")
Loss = Callable[[Any], Tensor]  # of embeddings, a rank's share of its value over the global batch


class Method(nn.Module, ABC):
    """A method of a paper. All else (gradient cache, gathering, evaluation) works through it."""

    # What its batches hold.
    contents = BatchSpec()
    # Whether it scores with a network of its own, which takes a shortlist where items are many.
    learned_score = False
    # What its losses show in the log beside their values.
    monitored: tuple[str, ...] = ()
    # Whether items are sets of vectors, whose own score an index does not search by.
    scores_sets = False
    # Whether it reads features of every position of an image and word of a text, not of the whole.
    local = False
    # Whether it reads a map of a lower layer of the encoder too, of the images that are searched.
    lower = False
    # Share of its momentum encoder that a step keeps; None: it has none.
    momentum: float | None = None

    def __init__(self, *, bf16: bool = False) -> None:
        super().__init__()
        self.bf16 = bf16
        self.active_losses: tuple[str, ...] = ()  # names of losses; none: the only one
        self.seed = 0  # of what the losses draw, the same on all ranks

    @property
    @abstractmethod
    def losses(self) -> Mapping[str, Loss]:
        """Return the losses that a stage can minimise, by name."""

    @abstractmethod
    def encode(self, batch: Batch) -> Any:
        """Return the embeddings of each sample by itself, a dataclass of tensors by row.

        Fields `images` and `texts`, (batch, …), are what is retrieved; None where the batch has
        no such side.
        """

    def objective(self, embeddings: Any) -> dict[str, Tensor]:
        """Return this rank's shares of the losses over the global batch, by name."""
        losses = self.losses
        names = self.active_losses or tuple(losses)
        return {name: losses[name](embeddings) for name in names}

    @property
    def score(self) -> Score:
        """Return the scores (a, b) of images (a, …) and texts (b, …): here, their dot products."""
        return dot_product

    def score_pairs(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return `score`, (n,), of chosen pairs: images (n, …) and texts (n, …).

        Methods that have a shortlist have it.
        """
        raise NotImplementedError(f"{type(self).__name__} scores all pairs alike")

    @property
    def shortlist(self) -> Score | None:
        """A cheaper score that `score` is approached by: it chooses what is worth scoring."""
        return None

    @property
    def monitors(self) -> dict[str, Tensor]:
        """Values that the log shows beside the losses."""
        parts = (part for part in self.modules() if part is not self)
        return {k: v for part in parts for k, v in getattr(part, "monitors", {}).items()}

    def begin_stage(self, active_losses: tuple[str, ...]) -> None:
        """Set the losses of the stage that begins."""
        self.active_losses = active_losses

    def make_room(self, num_samples: int) -> None:
        """Make room for what losses keep from step to step, in training on so many samples."""
        for module in self.modules():
            if isinstance(module, TrainingState):
                module.make_room(num_samples)

    def enqueue(self, batch: Batch) -> None:
        """Keep what losses of later steps need of a micro-batch, which a momentum encoder embeds:
        after each step it is called with averaged weights in the place of the trained ones.
        """
        raise NotImplementedError(f"{type(self).__name__} has no momentum encoder")

    def on_step_start(self, progress: float, seed: int) -> None:
        """Set the progress of the stage, 0 to 1, and the seed of the step."""
        self.seed = seed
        for module in self.modules():
            if isinstance(module, Scheduled):
                module.progress = progress

    def failure_reason(self, values: Mapping[str, float]) -> str | None:
        """Return why training must stop and what to change, given the values of a logged step, or
        of one whose loss is not finite.

        On all ranks alike; None where it can continue. By default it is the first reason that one
        of the method's modules returns.
        """
        parts = (part for part in self.modules() if part is not self)
        asked = (getattr(part, "failure_reason", None) for part in parts)
        return next((why for ask in asked if ask and (why := ask(values))), None)

    def forward(self, compute: Callable[[Self], T]) -> T:
        """Return `compute(self)`: DeepSpeed prepares weights for what is called through here."""
        return compute(self)


def in_precision(method: Method) -> AbstractContextManager[Any]:
    """Return the context that a method's encoders compute in: bf16 where the run is."""
    if not method.bf16:
        return nullcontext()
    return torch.autocast(next(method.parameters()).device.type, torch.bfloat16)
