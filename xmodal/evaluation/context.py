"""Data of an evaluation: the samples before they are embedded, and the embeddings."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from xmodal.data.composed import ComposedSet
from xmodal.data.evaluation import EvaluationSet
from xmodal.data.manifest import Manifest
from xmodal.data.reader import SampleReader
from xmodal.errors import UserError
from xmodal.evaluation.config import EvaluationConfig
from xmodal.evaluation.gallery import Gallery, Queries, Relevance
from xmodal.evaluation.metrics.classes import Classes, classes_of
from xmodal.evaluation.metrics.similarity import BY_DISTANCE, Similarity
from xmodal.methods.method import Method

T = TypeVar("T")


@dataclass(frozen=True)
class EvaluationData:
    """A method and the samples that it is measured on, before anything is embedded."""

    method: Method
    reader: SampleReader
    shards: Manifest  # that the samples are of; the reader may have their features
    relevance: Relevance | None
    config: EvaluationConfig
    gallery: SampleReader | None  # images that composed queries are searched in
    probe_train: SampleReader | None = None  # labelled images to fit on


@dataclass
class EvaluationContext:
    """A method and all embeddings that it makes of a shard set, whole on every rank."""

    method: Method
    dataset: EvaluationSet | ComposedSet  # of the pairs, or of the composed queries
    gallery: Gallery  # of composed queries, the images that they are searched in
    relevance: Relevance | None
    config: EvaluationConfig
    device: torch.device
    queries: Queries | None = None  # composed ones
    original: Manifest | None = None  # of the samples, if the dataset has their features
    probe_train: Gallery | None = None  # labelled images to fit on
    probe_url: str = ""  # of these
    _results: dict[str, Any] = field(default_factory=dict)

    @property
    def reader(self) -> SampleReader:
        """The reader of the samples that are measured."""
        return self.dataset.reader

    @property
    def shards(self) -> Manifest:
        """The shard set that is measured, which other files may lie beside."""
        return self.original or self.reader.manifest

    @property
    def url(self) -> str:
        """The place of the shards."""
        return self.reader.manifest.url

    @property
    def sizes(self) -> str:
        """The numbers of items, in words."""
        images = f"{len(self.gallery.images):,} images"
        if self.queries is not None:
            return f"{len(self.queries.records):,} queries × {images}"
        return f"{images} × {len(self.gallery.texts):,} texts"

    @cached_property
    def classes(self) -> Classes:
        """The classes of the images; `UserError` where there are none."""
        classes = classes_of(self.gallery)
        if not classes.names:
            raise UserError(without_labels(self.url, "retrieval by class"))
        return classes

    def similarities(self, images: Tensor, texts: Tensor) -> dict[str, Similarity]:
        """Return the similarities that images and texts are ranked by, by variant.

        A method with a learned score is measured by it and, as `-by-distance`, by its cheap score
        alone. Up to `config.all_pairs` the learned score is of all pairs.
        """
        method, config = self.method, self.config
        if method.shortlist is None:
            return {"": Similarity(method.score)}
        learned = Similarity(method.score)
        if len(images) * len(texts) > config.all_pairs:
            learned = Similarity(method.shortlist, method.score_pairs, config.shortlist)
        return {"": learned, BY_DISTANCE: Similarity(method.shortlist)}

    def once(self, key: str, compute: Callable[[], T]) -> T:
        """Return a result that metrics and examples share, computed the first time only."""
        if key not in self._results:
            self._results[key] = compute()
        found: T = self._results[key]
        return found


def without_labels(url: str, protocol: str) -> str:
    """Return the error about shards without labels."""
    return (
        f"{url} has no labels in its samples' JSON or .cls, which {protocol} is measured by; "
        "choose another protocol, or use shards with labels"
    )
