"""Cross-batch memory: embeddings of the last batches as further negatives."""

from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from xmodal.components.component import Buildable
from xmodal.distributed.collectives import gather, plan_order, row_counts
from xmodal.objectives.config import check_choice
from xmodal.objectives.extra import Extra, Side
from xmodal.objectives.pairwise.tiles import NO_ROWS
from xmodal.objectives.training_state import TrainingState
from xmodal.objectives.warmup import Scheduled

Of = Literal["texts", "images", "both"]


class QueueConfig(Buildable):
    """Embeddings of the last pairs, as negatives beside those of the batch (XBM, MoCo)."""

    size: PositiveInt = Field(description="pairs whose embeddings are kept, the newest ones")
    of: Of = Field(
        "both",
        description="texts: further negatives of images; images: of texts; both",
    )
    start: float = Field(
        0.1,
        ge=0,
        le=1,
        description="share of a stage before the first pairs enter the queue: embeddings that "
        "still change fast are soon poor negatives",
    )
    momentum: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of the average of the encoders that a step keeps, where this average "
        "embeds what enters (MoCo: 0.999), in a forward pass of its own; null: the encoders "
        "themselves do (XBM)",
    )
    builds: ClassVar[str] = "EmbeddingQueue"

    @property
    def sides(self) -> tuple[str, ...]:
        """The sides whose embeddings are kept."""
        return ("images", "texts") if self.of == "both" else (self.of,)


class EmbeddingQueue(Scheduled, TrainingState):
    """The newest `size` pairs of all ranks, as negatives without gradient (cross-batch memory,
    XBM: Wang et al. 2020, arXiv 1912.06798; MoCo's queue: He et al. 2020, arXiv 1911.05722).

    It holds what the encoders made of pairs when they came: their embeddings drift slowly (XBM,
    section 3.2). With `momentum`, it holds what an average of the encoders makes of them, which
    drifts more slowly (MoCo, section 3.2). The batch's own pairs are those of the encoders all the
    same, so that the loss differs from the one of the batch in its further negatives alone. A pair
    of the same id is no negative. The oldest pairs leave first, in the order of the plan, so that
    the queue is the same on any number of ranks that the batch is dealt to.
    """

    images: Tensor  # (size, dim); without pairs, where `of` is texts
    texts: Tensor  # (size, dim), as `images`
    ids: Tensor  # (size,) int64; NO_ROWS: nothing is there yet
    position: Tensor  # (1,) int64, place of the next pair

    def __init__(
        self,
        dim: int,
        *,
        size: int,
        of: Of = "both",
        start: float = 0.0,
        momentum: float | None = None,
    ) -> None:
        super().__init__()
        check_choice("of", of, Of)
        self.size, self.dim, self.start, self.momentum = size, dim, start, momentum
        self.sides = ("images", "texts") if of == "both" else (of,)
        self.register_buffer("images", torch.empty(0, dim))
        self.register_buffer("texts", torch.empty(0, dim))
        self.register_buffer("ids", torch.empty(0, dtype=torch.int64))
        self.register_buffer("position", torch.empty(0, dtype=torch.int64))

    def make_room(self, num_samples: int = 0) -> None:
        """Empty the queue."""
        del num_samples
        for side in self.sides:
            setattr(self, side, getattr(self, side).new_zeros(self.size, self.dim))
        self.ids = self.ids.new_full((self.size,), NO_ROWS)
        self.position = self.position.new_zeros(1)

    def negatives(self) -> list[Extra]:
        """Return the queue as negatives of a batch."""
        beside: dict[str, Side] = {"images": "x", "texts": "y"}
        texts = self.texts if "texts" in self.sides else None
        return [
            Extra(getattr(self, side), self.ids, beside[side], replicated=True, likeness=texts)
            for side in self.sides
        ]

    @property
    def has_started(self) -> bool:
        """True once pairs enter."""
        return self.progress >= self.start

    @torch.no_grad()
    def push(self, images: Tensor | None, texts: Tensor | None, ids: Tensor) -> None:
        """Add this and all other ranks' pairs, (rows, dim) and (rows, dim) with ids (rows,), if
        the queue has started. A side that is not kept may be None.
        """
        if not self.has_started:
            return
        counts = row_counts(ids)
        newest = plan_order(counts, ids.device)[-self.size :]
        places = (self.position + torch.arange(len(newest), device=ids.device)) % self.size
        # Not in place: the backward pass of the step reads what there was.
        for side, rows in (("images", images), ("texts", texts)):
            if side in self.sides:
                assert rows is not None
                kept: Tensor = getattr(self, side)
                new = gather(rows.detach(), counts)[newest].to(kept.dtype)
                setattr(self, side, kept.index_copy(0, places, new))
        self.ids = self.ids.index_copy(0, places, gather(ids, counts)[newest])
        self.position = (self.position + len(newest)) % self.size
