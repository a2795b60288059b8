"""What is measured, and what each protocol measures of its images and captions."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from xmodal.data.evaluation import EvaluationSet
from xmodal.distributed.collectives import gather_objects, rank
from xmodal.errors import UserError
from xmodal.evaluation.config import EvaluationConfig
from xmodal.evaluation.embedding import class_prototypes
from xmodal.evaluation.gallery import Gallery
from xmodal.evaluation.metrics import average_precision, recall, visual, zero_shot
from xmodal.evaluation.metrics.classes import Classes, classes_of
from xmodal.evaluation.metrics.gap import gap_metrics
from xmodal.evaluation.metrics.ranking import Ranks
from xmodal.evaluation.metrics.similarity import Similarity, rank_all, similarities
from xmodal.evaluation.protocols.ground_truth import (
    KARPATHY,
    Relevance,
    five_captions,
    folds,
    relevant_pairs,
)
from xmodal.evaluation.protocols.registry import without_labels
from xmodal.methods.method import Method
from xmodal.methods.scores import dot_product

Metrics = dict[str, float]
VisualMeasure = Callable[[Tensor, Tensor, Classes, str, int], Metrics]


@dataclass
class Ranked:
    """Captions that were ranked: by a method's score and, of a learned one, by the cheap one."""

    gallery: Gallery
    relevant_pairs: Tensor  # (pairs, 2) int64, rows of images and texts that are right
    ranks: dict[str, Ranks]  # by what that adds to the protocol's name

    def metrics(self, protocol: str) -> Metrics:
        """Return the recalls, and what goes with them."""
        metrics: Metrics = {}
        for ending, ranks in self.ranks.items():
            metrics |= recall.recall_metrics(ranks, self.relevant_pairs, protocol + ending)
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

    @property
    def sizes(self) -> str:
        """How much is measured, in words."""
        return f"{len(self.gallery.images):,} images × {len(self.gallery.texts):,} texts"

    @cached_property
    def classes(self) -> Classes:
        """The classes that the images are of; `UserError` where there are none."""
        classes = classes_of(self.gallery)
        if not classes.names:
            raise UserError(without_labels(self.url, "retrieval by class"))
        return classes

    def similarities(self, images: Tensor, texts: Tensor) -> dict[str, Similarity]:
        """Return what images and texts are ranked by, by what that adds to a protocol's name."""
        return similarities(self.method, len(images) * len(texts), self.config)

    def ranked(self, gallery: Gallery, relevance: Relevance | None = None) -> Ranked:
        """Rank the captions of a gallery by all that there is to rank them by."""
        pairs = relevant_pairs(gallery, relevance)
        images, texts = gallery.images, gallery.texts
        ranks = {
            ending: rank_all(images, texts, pairs, similarity, self.config.tile)
            for ending, similarity in self.similarities(images, texts).items()
        }
        return Ranked(gallery, pairs, ranks)


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
    _check_one_embedding(gallery, "class-normalised", "one of a text")
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
    prototypes = class_prototypes(
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


def by_look(subject: Subject, protocol: str, measure: VisualMeasure) -> Metrics:
    """Measure how images find images, without their texts and, of a method that has it, with."""
    gallery, classes = subject.gallery, subject.classes
    _check_one_embedding(gallery, protocol, "one of another")
    if classes.of_images.sum(0).max() < 2:
        raise UserError(
            f"no two images of {subject.url} share a label, which {protocol} is measured by; "
            "leave this protocol out"
        )
    metrics = Metrics()
    for ending, images in (("", gallery.images), (visual.WITH_TEXT, gallery.fused)):
        if images is not None:
            name, tile = protocol + ending, subject.config.tile
            metrics |= measure(images, gallery.image_ids, classes, name, tile)
    return metrics


MEASURES: dict[str, Callable[[Subject], Metrics]] = {
    "coco-1k-5fold": five_folds,
    "class": by_class,
    "class-normalised": by_class_normalised,
    "gap": gap,
    "zero-shot": by_names,
    "visual": partial(by_look, protocol="visual", measure=visual.visual_metrics),
    "visual-graded": partial(by_look, protocol="visual-graded", measure=visual.graded_metrics),
}


def _check_one_embedding(gallery: Gallery, protocol: str, other: str) -> None:
    if gallery.images.ndim != 2:
        raise UserError(
            f"{protocol} compares one embedding of an image with {other}, and this method has "
            f"{gallery.images.shape[1]} of each; leave this protocol out"
        )
