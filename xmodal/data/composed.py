"""Batches of composed queries for evaluation: one query per modification of a source image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from xmodal.data.batch import Batch, Fault
from xmodal.data.evaluation import image_batch, read_each, read_image, text_batch
from xmodal.data.reader import SampleReader
from xmodal.data.sample_spec import SampleSpec, features_of, infer_sample_spec
from xmodal.data.samples import RawSample
from xmodal.data.tokens import CaptionTokenizer
from xmodal.data.transforms import ImageTransform


@dataclass
class ComposedBatch:
    """Some queries of an evaluation set."""

    numbers: Tensor  # (queries,) int64, the samples' numbers in the manifest
    queries: Batch  # images are the sources, captions the modifications
    records: list[Any]  # of each query, as the set's `describe` returns it
    targets: Batch  # as images, if the set reads them: of the queries that have one
    owners: Tensor  # (targets,) int64, each target's row in `queries`
    faults: tuple[Fault, ...]


@dataclass
class _Query:
    """One query."""

    source: Tensor  # as `read_image` returns it
    target: Tensor | None
    modification: str
    text_features: np.ndarray | None  # (1, …)
    record: Any


class ComposedSet(Dataset[ComposedBatch]):
    """Selected queries of a manifest, each source with the central crop and, if `targets`, its
    target where that is published.

    `describe` returns what else of a sample is wanted, or raises `BadSample`.
    """

    def __init__(
        self,
        reader: SampleReader,
        transform: ImageTransform,
        tokenizer: CaptionTokenizer,
        *,
        targets: bool = False,
        describe: Callable[[RawSample], Any] | None = None,
    ) -> None:
        self.reader, self.transform, self.tokenizer = reader, transform, tokenizer
        self.targets, self.describe = targets, describe or record_of

    def __getitem__(self, numbers: Sequence[int]) -> ComposedBatch:
        read, faults = read_each(self.reader, numbers, self._query)
        found = list(read.values())
        queries = Batch()
        if found:
            queries = image_batch([query.source for query in found], self.kind)
            features = [query.text_features for query in found if query.text_features is not None]
            texts = text_batch([query.modification for query in found], features, self.tokenizer)
            queries = queries.with_texts(texts)
        targets = {n: one.target for n, one in enumerate(found) if one.target is not None}
        return ComposedBatch(
            torch.tensor(list(read), dtype=torch.int64),
            queries,
            [query.record for query in found],
            image_batch(list(targets.values()), self.kind) if targets else Batch(),
            torch.tensor(list(targets), dtype=torch.int64),
            faults,
        )

    @cached_property
    def kind(self) -> SampleSpec:
        """Specification of the set's samples."""
        return infer_sample_spec(self.reader)

    def _query(self, sample: RawSample) -> _Query:
        record, modification = self.describe(sample), sample.modification()
        text_features = None
        if self.kind.text is not None:
            text_features = features_of(sample, "text", self.kind.text)[:1]
        source, target = read_image(sample, "source", self.kind, self.transform), None
        if self.targets and sample.has_image("target"):
            target = read_image(sample, "target", self.kind, self.transform)
        return _Query(source, target, modification, text_features, record)


def record_of(sample: RawSample) -> dict[str, Any]:
    """Return a query's JSON with its ids as strings.

    `target_id` is None if it is not published; `target_ids` (all relevant ones) and `members` are
    empty if there are none. Raises `BadSample` if the sample is not a query.
    """
    return sample.record | {
        "modification": sample.modification(),
        "source_id": sample.source_id,
        "target_id": sample.target_id,
        "target_ids": sample.ids("target_ids"),
        "members": sample.ids("members"),
    }
