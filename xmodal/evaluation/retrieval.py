"""Measuring a trained method on a shard set, by any of the protocols, on all ranks."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xmodal.data.batch import Fault
from xmodal.data.evaluation import EvaluationSet
from xmodal.data.manifest import Manifest
from xmodal.data.reader import SampleReader
from xmodal.data.tokens import CaptionTokenizer
from xmodal.data.transforms import ImageTransform
from xmodal.errors import UserError
from xmodal.evaluation.captions import Relevance
from xmodal.evaluation.config import EvaluationConfig
from xmodal.evaluation.gallery import Gallery, embed, in_evaluation
from xmodal.evaluation.protocols import (
    CAPTIONED,
    MEASURES,
    Ranked,
    Subject,
    check_protocols,
    named,
    ranked_captions,
)
from xmodal.evaluation.ranking import Ranks
from xmodal.evaluation.similarity import Similarity, nearest
from xmodal.methods.method import Method

NAMED_FAULTS = 20  # samples left out that are named; the rest are counted
QUERIES = 6  # captions, and as many images, spread evenly over the set, whose finds are shown
HITS = 5


@dataclass
class Found:
    """What some queries find first."""

    queries: list[int]  # rows
    items: Tensor  # (queries, hits) int64, rows, best first
    scores: Tensor  # (queries, hits)


@dataclass
class Retrieval:
    """What was retrieved, and how well."""

    gallery: Gallery
    true_pairs: Tensor  # (pairs, 2) int64, rows of images and texts that are right
    ranks: Ranks
    texts_found: Found  # for some images
    images_found: Found  # for some texts
    metrics: dict[str, float]  # of all protocols
    faults: list[Fault]  # samples left out

    def fault_lines(self) -> list[str]:
        """Return what is to be said of the samples left out: the first ones by name."""
        lines = [f"bad sample, left out: {fault}" for fault in self.faults[:NAMED_FAULTS]]
        more = len(self.faults) - len(lines)
        return [*lines, f"and {more} more bad samples"] if more else lines


def evaluate_retrieval(
    method: Method,
    dataset: EvaluationSet,
    relevance: Relevance | None,
    config: EvaluationConfig,
    *,
    protocols: Sequence[str] | None = None,
    device: torch.device,
    workers: int,
    max_bad_share: float,
) -> Retrieval:
    """Measure a method by `protocols`, those of `config` by default, from one pass of encoding.

    The ranks and the finds are those of the first protocol that ranks the captions of the whole
    set, or of the default one where none does. All ranks call this, and all get the same result.
    Raises `UserError` when more than `max_bad_share` of the samples cannot be read, or the set is
    not what a protocol is measured on.
    """
    names = named(protocols or config.protocols, relevance)
    check_protocols(names, method, dataset.reader, relevance)
    with in_evaluation(method):
        gallery, faults = embed(method, dataset, config.batch_size, device=device, workers=workers)
        _check_faults(faults, gallery, dataset, max_bad_share)
        subject = Subject(method, gallery, dataset, relevance, config, device)
        captioned = [name for name in names if name in CAPTIONED] or named(None, relevance)
        ranked = {name: ranked_captions(subject, name) for name in captioned}
        metrics: dict[str, float] = {}
        for name in names:
            metrics |= ranked[name].metrics(name) if name in ranked else MEASURES[name](subject)
        return _retrieval(subject, ranked[captioned[0]], metrics, faults)


def evaluation_set(manifest: Manifest, size: int, tokenizer: CaptionTokenizer) -> EvaluationSet:
    """Return a shard set as evaluation reads it: central crops of `size`, every caption."""
    return EvaluationSet(SampleReader(manifest), ImageTransform(size), tokenizer)


def _check_faults(
    faults: Sequence[Fault], gallery: Gallery, dataset: EvaluationSet, max_bad_share: float
) -> None:
    url, total = dataset.reader.manifest.url, len(dataset.reader)
    missing = total - len(gallery.numbers)
    if missing > max_bad_share * total or not len(gallery.numbers):
        first = f", the first {faults[0]}" if faults else ""
        raise UserError(
            f"{missing} of {total} samples of {url} cannot be read{first}; run "
            f"`python -m shards check {url}`"
        )


def _retrieval(
    subject: Subject, ranked: Ranked, metrics: dict[str, float], faults: list[Fault]
) -> Retrieval:
    gallery, tile = ranked.gallery, subject.config.tile
    images, texts = gallery.images, gallery.texts
    similarity = subject.similarities(images, texts)[""]

    def find(queries: Tensor, items: Tensor, by: Similarity) -> Found:
        rows = [len(queries) * i // QUERIES for i in range(min(QUERIES, len(queries)))]
        scores, found = nearest(queries[rows], items, HITS, by, tile)
        return Found(rows, found, scores)

    return Retrieval(
        gallery,
        ranked.true_pairs,
        ranked.ranks[""],
        find(images, texts, similarity),
        find(texts, images, similarity.swapped()),
        metrics,
        faults,
    )
