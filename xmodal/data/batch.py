"""Batches of pairs, and micro-batches of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from xmodal.devices import copy_to, is_on_host

T = TypeVar("T")


@dataclass(frozen=True)
class Fault:
    """Unusable sample, or dropped part of a sample: its place and the cause."""

    shard: str
    key: str
    cause: str
    by_choice: bool = False  # the recipe skips such samples: nothing is wrong with them
    partial: bool = False  # a caption or label was dropped, and the sample used without it

    def __str__(self) -> str:
        # Names in foreign tars need not be UTF-8, but a line in a log does.
        key = self.key.encode("utf-8", "backslashreplace").decode()
        return f"{self.shard}, {key}: {self.cause}"


@dataclass(frozen=True)
class BatchSpec:
    """Parts of each sample that a method's batches hold."""

    views: int = 1  # crops of the image
    captions: int = 1  # 0: none is read; 2: one a view, different ones where there are several
    labels: bool = False  # its class
    numbers: bool = False  # its number among all training samples
    teacher: int = 0  # dimensions of a teacher's embeddings of both sides; 0: none
    composed: bool = False  # a source, its modification and the target, not an image and a caption


PAIRS = BatchSpec()
GALLERY = BatchSpec(captions=0)  # images that are there to be found


@dataclass
class Batch:
    """Images, captions, or both, of `batch` samples; what is absent is None.

    Cached features of locked encoders take the place of images or captions. A composed query has
    its source as image, its modification as caption, and its target as target.
    """

    images: Tensor | None = None  # (batch, 3, height, width) uint8
    second_images: Tensor | None = None  # as `images`, another view of the same
    targets: Tensor | None = None  # as `images`
    # (batch, views, numbers) float64: of images, second images or targets, not yet applied to them
    draws: Tensor | None = None
    tokens: Tensor | None = None  # (batch, length) int64, padded to the longest of the batch
    token_mask: Tensor | None = None  # (batch, length) bool, False on padding
    token_lengths: Tensor | None = None  # (batch,) int64, on the host; known once it is moved
    second_tokens: Tensor | None = None  # as `tokens`, the caption of the second view
    second_token_mask: Tensor | None = None  # as `token_mask`
    second_token_lengths: Tensor | None = None  # as `token_lengths`
    extra_images: Tensor | None = None  # (batch, m, 3, height, width) uint8, false of the caption
    extra_image_features: Tensor | None = None  # (batch, m, …) float32
    extra_tokens: Tensor | None = None  # (batch, k, length) int64, texts false of the image
    extra_token_mask: Tensor | None = None  # (batch, k, length) bool, as `token_mask`
    extra_token_lengths: Tensor | None = None  # (batch, k) int64, as `token_lengths`
    text_dropped: Tensor | None = None  # (batch, views) bool, True where a view has no text
    image_features: Tensor | None = None  # (batch, …) float32
    target_features: Tensor | None = None  # as `image_features`
    target_lower: Tensor | None = None  # (batch, positions, channels) float32, of a lower layer
    text_features: Tensor | None = None  # (batch, …) float32
    second_text_features: Tensor | None = None  # as `text_features`
    teacher_images: Tensor | None = None  # (batch, dim) float32, a teacher's embeddings of `images`
    teacher_texts: Tensor | None = None  # (batch, dim) float32, and of the captions
    image_ids: Tensor | None = None  # (batch,) int64, equal for equal images; composed: targets
    source_ids: Tensor | None = None  # as `image_ids`, of composed queries' sources
    text_ids: Tensor | None = None  # (batch,) int64, equal for equal captions
    extra_text_ids: Tensor | None = None  # (batch, k) int64, as `text_ids`
    extra_text_origins: Tensor | None = None  # (batch, k) int64, `image_ids` of what they describe
    extra_image_ids: Tensor | None = None  # (batch, m) int64, as `image_ids`
    labels: Tensor | None = None  # (batch,) int64, equal for equal classes
    sample_numbers: Tensor | None = None  # (batch,) int64, of all training samples
    faults: tuple[Fault, ...] = ()  # samples whose slots a neighbour fills; parts dropped of others
    warnings: tuple[str, ...] = ()  # of the storage: retried reads

    @property
    def size(self) -> int:
        """Number of samples."""
        return next(len(v) for v in vars(self).values() if isinstance(v, Tensor))

    @property
    def texts(self) -> tuple[Tensor | None, ...]:
        """Tokens, mask and lengths, which encoders of texts take."""
        return self.tokens, self.token_mask, self.token_lengths

    @property
    def extra_texts(self) -> tuple[Tensor | None, ...]:
        """As `texts`, of all extra texts, (batch × k, …)."""
        parts = (self.extra_tokens, self.extra_token_mask, self.extra_token_lengths)
        return tuple(None if part is None else part.flatten(0, 1) for part in parts)

    @property
    def extra_pictures(self) -> tuple[Tensor | None, Tensor | None]:
        """All extra images and features of them, (batch × m, …)."""
        images, features = self.extra_images, self.extra_image_features
        return (
            None if images is None else images.flatten(0, 1),
            None if features is None else features.flatten(0, 1),
        )

    @property
    def second_texts(self) -> tuple[Tensor | None, ...]:
        """As `texts`, of the second view."""
        return self.second_tokens, self.second_token_mask, self.second_token_lengths

    def only(self, sides: Sequence[Literal["images", "texts"]]) -> "Batch":
        """Return the images of all samples, their captions, or both, and nothing else."""
        texts = ("tokens", "token_mask", "token_lengths", "text_features")
        names = {"images": ("images", "image_features"), "texts": texts}
        kept = {name: getattr(self, name) for side in sides for name in names[side]}
        return Batch(image_ids=self.image_ids, **kept)

    def with_texts(self, texts: "Batch") -> "Batch":
        """Return the batch with the texts of another one, row by row."""
        return replace(
            self,
            tokens=texts.tokens,
            token_mask=texts.token_mask,
            token_lengths=texts.token_lengths,
            text_features=texts.text_features,
        )

    def to(self, device: torch.device) -> "Batch":
        """Return the batch with its tensors on `device`, copied while the device computes.

        Lengths of texts stay on the host.
        """
        lengths: dict[str, Any] = {
            "token_lengths": _lengths(self.token_mask, self.token_lengths),
            "second_token_lengths": _lengths(self.second_token_mask, self.second_token_lengths),
            "extra_token_lengths": _lengths(self.extra_token_mask, self.extra_token_lengths),
        }
        nothing: dict[str, Any] = dict.fromkeys(lengths)
        others = replace(self, **nothing)
        return replace(others._map(partial(copy_to, device)), **lengths)

    def rows(self, numbers: Tensor) -> "Batch":
        """Return the batch of these rows, (some,) int64."""
        return self._map(itemgetter(numbers))

    def cut(self, size: int) -> list["Batch"]:
        """Return the batch in parts of `size` samples, in order; `join` puts them together again.

        The last part may be smaller. Parts share the batch's memory; the first one has its faults
        and warnings.
        """
        parts = [self._map(itemgetter(slice(at, at + size))) for at in range(0, self.size, size)]
        return [parts[0], *(replace(part, faults=(), warnings=()) for part in parts[1:])]

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        tensors = {k: v for k, v in vars(self).items() if isinstance(v, Tensor)}
        changed: dict[str, Any] = {name: change(tensor) for name, tensor in tensors.items()}
        return replace(self, **changed)


def _lengths(mask: Tensor | None, known: Tensor | None) -> Tensor | None:
    return mask.sum(-1) if known is None and mask is not None and is_on_host(mask) else known


def join(parts: Sequence[T]) -> T:
    """Concatenate parts of a batch, or the results for them.

    Each field of the dataclass `T` is a tensor, concatenated by rows, a tuple, or None.
    """
    values = {name: [getattr(part, name) for part in parts] for name in vars(parts[0])}
    return type(parts[0])(**{name: _joined(of_parts) for name, of_parts in values.items()})


def _joined(values: list[Any]) -> Any:
    if isinstance(values[0], Tensor):
        return torch.cat(values)
    return None if values[0] is None else sum(values, ())
