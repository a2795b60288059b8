"""Embeddings of a whole shard set: images with their captions, and composed queries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from xmodal.data.evaluation import Contrast

# Of each image id, for every caption, the ids of the images that it describes.
Relevance = Mapping[str, Sequence[Sequence[str]]]


@dataclass
class Gallery:
    """All embeddings of a shard set, whole on every rank, in the manifest's order."""

    numbers: Tensor  # (images,) int64, the samples' numbers in the manifest
    image_ids: Tensor  # (images,) int64
    images: Tensor  # (images, …); of a composed method as they are searched
    owners: Tensor  # (texts,) int64, each caption's row in `images`
    texts: Tensor  # (texts, …); no row where a method embeds images alone
    labels: list[list[str]]  # of each image; a text has those of its image
    fused: Tensor | None = None  # (images, dim), each image with its first caption
    contrasts: list[Contrast] = field(default_factory=list)  # captions with false ones
    digests: Tensor | None = None  # (images,) int64, equal for images of equal files

    def caption_numbers(self) -> Tensor:
        """Return each text's number among the captions of its image, from 0: (texts,) int64."""
        texts = torch.arange(len(self.owners), device=self.owners.device)
        return texts - torch.searchsorted(self.owners, self.owners)

    def first_captions(self, count: int) -> "Gallery":
        """Return the same images with no more than their first `count` captions."""
        kept = self.caption_numbers() < count
        return replace(self, owners=self.owners[kept], texts=self.texts[kept])

    def part(self, start: int, stop: int) -> "Gallery":
        """Return the images from `start` to before `stop`, with their captions."""
        inside = (self.owners >= start) & (self.owners < stop)
        return Gallery(
            self.numbers[start:stop],
            self.image_ids[start:stop],
            self.images[start:stop],
            self.owners[inside] - start,
            self.texts[inside],
            self.labels[start:stop],
        )


@dataclass
class Queries:
    """All composed queries of a shard set, whole on every rank, in the manifest's order."""

    numbers: Tensor  # (queries,) int64, the samples' numbers in the manifest
    embeddings: Tensor  # (queries, dim)
    records: list[dict[str, Any]]  # the samples' JSON
