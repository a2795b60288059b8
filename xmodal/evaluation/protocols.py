"""The protocols by name: what each measures of one and the same embeddings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from xmodal.data.decode import BadSample
from xmodal.data.evaluation import EvaluationSet
from xmodal.data.kind import PROBED
from xmodal.data.reader import SampleReader
from xmodal.distributed.collectives import gather_objects, rank
from xmodal.errors import UserError
from xmodal.evaluation import average_precision, recall, zero_shot
from xmodal.evaluation.captions import (
    KARPATHY,
    Relevance,
    check_size,
    five_captions,
    folds,
    true_pairs,
)
from xmodal.evaluation.classes import Classes, classes_of
from xmodal.evaluation.config import EvaluationConfig
from xmodal.evaluation.gallery import Gallery
from xmodal.evaluation.gap import GAPS, gap_metrics
from xmodal.evaluation.ranking import Ranks, dot_product
from xmodal.evaluation.similarity import BY_DISTANCE, Similarity, rank_all, similarities
from xmodal.methods.method import Method
from xmodal.models.features import Features

Metrics = dict[str, float]
# Those that rank captions of the whole set, so that what was found can be shown.
CAPTIONED = ("all-captions", "relevance", "flickr-1k", "coco-5k")
BY_LABEL = {"class", "class-normalised", "zero-shot"}
# Of each protocol the metrics of which more is better.
BETTER = {
    **dict.fromkeys([*CAPTIONED, "coco-1k-5fold"], recall.BETTER),
    **dict.fromkeys(["class", "class-normalised"], average_precision.BETTER),
    "gap": (),
    "zero-shot": zero_shot.BETTER,
}
# And those of which less is.
OTHERS = {
    **dict.fromkeys(
        [*CAPTIONED, "coco-1k-5fold"], tuple(f"{one}/median_rank" for one in recall.DIRECTIONS)
    ),
    "gap": GAPS,
}


@dataclass
class Ranked:
    """Captions that were ranked: by a method's score and, of a learned one, by the cheap one."""

    gallery: Gallery
    true_pairs: Tensor  # (pairs, 2) int64, rows of images and texts that are right
    ranks: dict[str, Ranks]  # by what that adds to the protocol's name

    def metrics(self, protocol: str) -> Metrics:
        """Return the recalls, and what goes with them."""
        metrics: Metrics = {}
        for ending, ranks in self.ranks.items():
            metrics |= recall.recall_metrics(ranks, self.true_pairs, protocol + ending)
        return metrics


@dataclass
class Subject:
    """What is measured: a method, and all embeddings that it makes of a shard set."""

    method: Method
    gallery: Gallery
    dataset: EvaluationSet
    relevance: Relevance | None
    config: EvaluationConfig
    device: torch.device

    @property
    def url(self) -> str:
        """Where the shards lie."""
        return self.dataset.reader.manifest.url

    @cached_property
    def classes(self) -> Classes:
        """The classes that the images are of; `UserError` where there are none."""
        classes = classes_of(self.gallery)
        if not classes.names:
            raise UserError(_without_labels(self.url))
        return classes

    def similarities(self, images: Tensor, texts: Tensor) -> dict[str, Similarity]:
        """Return what images and texts are ranked by, by what that adds to a protocol's name."""
        return similarities(self.method, len(images) * len(texts), self.config)

    def ranked(self, gallery: Gallery, relevance: Relevance | None = None) -> Ranked:
        """Rank the captions of a gallery by all that there is to rank them by."""
        pairs = true_pairs(gallery, relevance)
        images, texts = gallery.images, gallery.texts
        ranks = {
            ending: rank_all(images, texts, pairs, similarity, self.config.tile)
            for ending, similarity in self.similarities(images, texts).items()
        }
        return Ranked(gallery, pairs, ranks)


def metric_names(protocols: Sequence[str]) -> list[str]:
    """Return all metrics of some protocols of which more is better."""
    return [f"{protocol}/{name}" for protocol in protocols for name in BETTER[protocol]]


def all_metric_names(protocols: Sequence[str], *, by_distance: bool) -> list[str]:
    """Return the metrics of some protocols that something can be required of.

    `by_distance`: also those that a method with a learned score has beside them.
    """
    endings = ("", BY_DISTANCE) if by_distance else ("",)
    return [
        f"{protocol}{ending}/{name}"
        for protocol in protocols
        for ending in endings
        for name in (*BETTER[protocol], *OTHERS.get(protocol, ()))
    ]


def named(protocols: Sequence[str] | None, relevance: Relevance | None) -> list[str]:
    """Return protocols by their own names, each once: `default`, or none, is one of two."""
    default = "all-captions" if relevance is None else "relevance"
    names = [default if name == "default" else name for name in protocols or ["default"]]
    return list(dict.fromkeys(names))


def check_protocols(
    protocols: Sequence[str], method: Method, reader: SampleReader, relevance: Relevance | None
) -> None:
    """Raise `UserError` where it is plain from the method and the first samples that a protocol
    cannot be measured.
    """
    url = reader.manifest.url
    for protocol in protocols:
        check_size(protocol, len(reader), url)
    if BY_LABEL.intersection(protocols) and not _any_label(reader):
        raise UserError(_without_labels(url))
    if "relevance" in protocols and relevance is None:
        raise UserError(f"{url} has no relevance.json, which relevance reads; use all-captions")
    if "zero-shot" in protocols and not _reads_text(method):
        raise UserError(
            "zero-shot encodes the names of classes, but method.text is kind: features: the shards "
            "hold what its encoder made of captions; leave this protocol out"
        )


def ranked_captions(subject: Subject, protocol: str) -> Ranked:
    """Rank captions by one of the protocols that rank those of the whole set."""
    if protocol in KARPATHY:
        return subject.ranked(five_captions(subject.gallery, protocol, subject.dataset.reader))
    return subject.ranked(subject.gallery, subject.relevance if protocol == "relevance" else None)


def five_folds(subject: Subject) -> Metrics:
    """Measure five folds apart, and return the mean of each metric."""
    protocol = "coco-1k-5fold"
    gallery = five_captions(subject.gallery, protocol, subject.dataset.reader)
    of_folds = [subject.ranked(fold).metrics(protocol) for fold in folds(gallery)]
    return {name: sum(fold[name] for fold in of_folds) / len(of_folds) for name in of_folds[0]}


def by_class(subject: Subject) -> Metrics:
    """Measure retrieval of the same class."""
    gallery, metrics = subject.gallery, Metrics()
    for ending, similarity in subject.similarities(gallery.images, gallery.texts).items():
        metrics |= average_precision.class_metrics(
            gallery, subject.classes, similarity, f"class{ending}", subject.config.tile
        )
    return metrics


def by_class_normalised(subject: Subject) -> Metrics:
    """Measure retrieval of the same class by cosines of embeddings standardised over the set."""
    gallery = subject.gallery
    if gallery.images.ndim != 2:
        raise UserError(
            "class-normalised compares one embedding of an image with one of a text, and this "
            f"method has {gallery.images.shape[1]} of each; leave this protocol out"
        )
    return average_precision.class_metrics(
        average_precision.standardised(gallery),
        subject.classes,
        Similarity(dot_product),
        "class-normalised",
        subject.config.tile,
    )


def gap(subject: Subject) -> Metrics:
    """Measure the modality gap, on one rank for all."""
    if len(subject.gallery.images) < 2:
        raise UserError(f"gap is measured on two images at least, and {subject.url} has one")
    return gather_objects([gap_metrics(subject.gallery)] if rank() == 0 else [])[0]


def by_names(subject: Subject) -> Metrics:
    """Measure the classification of images by the names of their classes."""
    config, classes, images = subject.config, subject.classes, subject.gallery.images
    prototypes = zero_shot.class_prototypes(
        subject.method,
        classes.names,
        config.templates,
        subject.dataset.tokenizer,
        config.batch_size,
        subject.device,
    )
    metrics = Metrics()
    for ending, similarity in subject.similarities(images, prototypes).items():
        metrics |= zero_shot.zero_shot_metrics(
            images, classes, prototypes, similarity, f"zero-shot{ending}", config.tile
        )
    return metrics


MEASURES: dict[str, Callable[[Subject], Metrics]] = {
    "coco-1k-5fold": five_folds,
    "class": by_class,
    "class-normalised": by_class_normalised,
    "gap": gap,
    "zero-shot": by_names,
}


def _any_label(reader: SampleReader) -> bool:
    for number in range(min(PROBED, len(reader))):
        try:
            if reader[number].labels():
                return True
        except BadSample:
            continue
    return False


def _without_labels(url: str) -> str:
    return (
        f"{url} has no labels in its samples' JSON, which class and zero-shot are measured by; "
        "leave these protocols out"
    )


def _reads_text(method: Method) -> bool:
    texts = [part for name, part in method.named_modules() if name.split(".")[0] == "text"]
    return not any(isinstance(part, Features) for part in texts)
