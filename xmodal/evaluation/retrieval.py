"""Evaluation of a trained method on a shard set, by any of the protocols, on all ranks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from xmodal.activity import activity
from xmodal.data.batch import BatchSpec, Fault
from xmodal.data.composed import ComposedSet
from xmodal.data.evaluation import EvaluationSet
from xmodal.data.manifest import Manifest
from xmodal.data.reader import SampleReader
from xmodal.data.sample_spec import evaluated_parts
from xmodal.data.tokens import CaptionTokenizer
from xmodal.data.transforms import ImageTransform
from xmodal.distributed.collectives import rank
from xmodal.errors import UserError
from xmodal.evaluation.config import EvaluationConfig
from xmodal.evaluation.context import EvaluationContext, EvaluationData
from xmodal.evaluation.embedding import embed, embed_queries, in_evaluation
from xmodal.evaluation.gallery import Gallery, Queries, Relevance
from xmodal.evaluation.per_query import PerQuery
from xmodal.evaluation.protocols.cirr_submission import write_submission
from xmodal.evaluation.protocols.protocol import Protocol
from xmodal.evaluation.protocols.registry import (
    check_protocols,
    needs_training_set,
    protocol,
    resolve,
)
from xmodal.evaluation.protocols.search import Search
from xmodal.evaluation.retrieved import RetrievedExample
from xmodal.methods.method import Method

NAMED_FAULTS = 20  # skipped samples that are named; the rest are counted


@dataclass
class Retrieval:
    """Metrics and retrieved examples of an evaluation."""

    metrics: dict[str, float]  # of all protocols
    examples: list[RetrievedExample]  # of a few queries
    faults: list[Fault]  # samples that were skipped
    warnings: list[str] = field(default_factory=list)  # of metrics that any model would reach
    per_query: list[PerQuery] = field(default_factory=list)

    def fault_lines(self) -> list[str]:
        """Return lines about the samples that were skipped: the first ones by name."""
        bad = [fault for fault in self.faults if not fault.partial]
        parts = [fault for fault in self.faults if fault.partial]
        return [
            *_named(bad, "bad sample, skipped", "bad samples"),
            *_named(parts, "part of a sample, dropped", "parts of samples"),
        ]


def _named(faults: Sequence[Fault], what: str, many: str) -> list[str]:
    lines = [f"{what}: {fault}" for fault in faults[:NAMED_FAULTS]]
    more = len(faults) - len(lines)
    return [*lines, f"and {more} more {many}"] if more else lines


def evaluate_retrieval(
    method: Method,
    dataset: EvaluationSet | ComposedSet,
    relevance: Relevance | None,
    config: EvaluationConfig,
    *,
    gallery: EvaluationSet | None = None,
    probe_train: EvaluationSet | None = None,
    original: Manifest | None = None,
    protocols: Sequence[str] | None = None,
    device: torch.device,
    workers: int,
    max_bad_share: float,
) -> Retrieval:
    """Measure a method by `protocols`, those of `config` by default, from one pass of encoding.

    Composed queries are searched in `gallery`, and probes fitted on `probe_train`. `original` is
    the shard set that `dataset` has the features of, if it has. All ranks call this, and all get
    the same result. Raises `UserError` when more than `max_bad_share` of the samples cannot be
    read, or a protocol is not defined on the set.
    """
    names = resolve(protocols or config.protocols, method.contents, relevance)
    shards = original or dataset.reader.manifest
    searched, fitted = (one.reader if one else None for one in (gallery, probe_train))
    data = EvaluationData(method, dataset.reader, shards, relevance, config, searched, fitted)
    check_protocols(names, data)
    with in_evaluation(method):
        queries = None
        if isinstance(dataset, ComposedSet):
            assert gallery is not None, "composed queries are searched in a gallery"
            queries, images, faults = _embed_both(
                method, dataset, gallery, config, device, workers, max_bad_share
            )
        else:
            size = config.batch_size
            images, faults = embed(method, dataset, size, device=device, workers=workers)
            _check_faults(faults, len(images.numbers), dataset.reader, max_bad_share)
        context = EvaluationContext(
            method, dataset, images, relevance, config, device, queries, original
        )
        if probe_train and needs_training_set(names):
            size = config.batch_size
            fitted_on, more = embed(method, probe_train, size, device=device, workers=workers)
            _check_faults(more, len(fitted_on.numbers), probe_train.reader, max_bad_share)
            context.probe_train, context.probe_url = fitted_on, probe_train.reader.manifest.url
            faults = faults + more
        return _measure(context, list(map(protocol, names)), faults)


def answer_cirr(
    method: Method,
    dataset: ComposedSet,
    gallery: EvaluationSet,
    config: EvaluationConfig,
    folder: Path,
    *,
    device: torch.device,
    workers: int,
) -> list[Path]:
    """Write the submission for CIRR's server on the first rank; return the paths.

    All ranks call this. Raises `UserError` where any sample cannot be read: the server wants all.
    """
    with in_evaluation(method):
        queries, images, _ = _embed_both(method, dataset, gallery, config, device, workers, 0.0)
    if rank():
        return []
    return write_submission(folder, Search(queries, images, config.tile), gallery.reader)


def evaluation_set(
    manifest: Manifest,
    transform: ImageTransform,
    tokenizer: CaptionTokenizer,
    *,
    captions: bool = True,
) -> EvaluationSet:
    """Return a shard set as evaluation reads it: every image, and every caption or none."""
    return EvaluationSet(SampleReader(manifest), transform, tokenizer, captions=captions)


def images_to_fit_on(
    manifest: Manifest | None, transform: ImageTransform, tokenizer: CaptionTokenizer
) -> EvaluationSet | None:
    """Return the images of `data.probe_train`, where there is such a set."""
    if manifest is None:
        return None
    return evaluation_set(manifest, transform, tokenizer, captions=False)


def sets_to_measure(
    contents: BatchSpec,
    shards: Manifest,
    gallery: Manifest | None,
    transform: ImageTransform,
    tokenizer: CaptionTokenizer,
) -> tuple[EvaluationSet | ComposedSet, EvaluationSet | None]:
    """Return the sets of `evaluate_retrieval`: a set and, of composed queries, the gallery that
    they are searched in.
    """
    if not contents.composed:
        captions = evaluated_parts(SampleReader(shards), contents).captions > 0
        return evaluation_set(shards, transform, tokenizer, captions=captions), None
    assert gallery is not None
    queries = ComposedSet(SampleReader(shards), transform, tokenizer)
    return queries, evaluation_set(gallery, transform, tokenizer, captions=False)


def _embed_both(
    method: Method,
    dataset: ComposedSet,
    gallery: EvaluationSet,
    config: EvaluationConfig,
    device: torch.device,
    workers: int,
    max_bad_share: float,
) -> tuple[Queries, Gallery, list[Fault]]:
    size = config.batch_size
    queries, faults = embed_queries(method, dataset, size, device=device, workers=workers)
    _check_faults(faults, len(queries.numbers), dataset.reader, max_bad_share)
    images, more = embed(method, gallery, size, device=device, workers=workers)
    _check_faults(more, len(images.numbers), gallery.reader, max_bad_share)
    return queries, images, faults + more


def _measure(
    context: EvaluationContext, protocols: Sequence[Protocol], faults: list[Fault]
) -> Retrieval:
    metrics: dict[str, float] = {}
    for one in protocols:
        with activity(f"{one.name}, {context.sizes}"):
            metrics |= one.measure(context)
    examples = [example for one in _shown(context, protocols) for example in one.examples(context)]
    per_query = [results for one in protocols for results in one.per_query(context)]
    warnings = _saturated(metrics, context.gallery, context.url)
    return Retrieval(metrics, examples, faults, warnings, per_query)


def _shown(context: EvaluationContext, protocols: Sequence[Protocol]) -> list[Protocol]:
    """Return the protocols whose examples are shown: the first of each sort.

    Where one has no examples of its own, those of the default protocol are shown.
    """
    (default,) = map(protocol, resolve(None, context.method.contents, context.relevance))
    found: dict[str | None, Protocol] = {}
    for one in protocols:
        found.setdefault(one.shows, one)
    if found.pop(None, None) is not None and (
        len(context.gallery.texts) or not default.needs_captions
    ):
        found.setdefault(default.shows, default)
    return list(found.values())


def _saturated(metrics: Mapping[str, float], gallery: Gallery, url: str) -> list[str]:
    """Return warnings about metrics that any order of the gallery would reach."""
    names = [
        name.removesuffix("_chance")
        for name, value in metrics.items()
        if name.endswith("_chance") and not name.endswith("/rsum_chance") and value > 99.99
    ]
    if not names:
        return []
    images = len(gallery.image_ids)
    why = f"its {images:,} images are too few, or nearly all of them are relevant"
    if images > 1 and len(gallery.image_ids.unique()) == 1:
        why = f"all {images:,} images have the same image_id; give each image its own, or none"
    return [
        f"warning: {names[0]}{' and others' * (len(names) > 1)} of {url} cannot be less than 100: "
        f"{why}"
    ]


def _check_faults(
    faults: Sequence[Fault], read: int, reader: SampleReader, max_bad_share: float
) -> None:
    url, total = reader.manifest.url, len(reader)
    missing = total - read
    if missing > max_bad_share * total or not read:
        bad = [fault for fault in faults if not fault.partial]
        first = f", the first {bad[0]}" if bad else ""
        raise UserError(
            f"{missing} of {total} samples of {url} cannot be read{first}; run "
            f"`python -m shards check {url}`"
        )
