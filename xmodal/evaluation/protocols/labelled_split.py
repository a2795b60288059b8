"""Images of the measured set and of a training set, by classes, for protocols that are fitted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xmodal.data.batch import BatchSpec
from xmodal.errors import UserError
from xmodal.evaluation.context import EvaluationContext, EvaluationData, without_labels
from xmodal.evaluation.metrics.classes import memberships
from xmodal.evaluation.protocols.protocol import Metrics, Protocol, labels_of_first


@dataclass(frozen=True)
class LabelledSplit:
    """Embeddings of images with a class, and their classes: those of the training images."""

    train: Tensor  # (items, dim)
    of_train: Tensor  # (items, classes) bool
    test: Tensor  # (queries, dim)
    of_test: Tensor  # (queries, classes) bool
    counts: Metrics  # by name, without the protocol


class FittedProtocol(Protocol):
    """A protocol that is fitted on the embeddings of `data.probe_train`."""

    needs_labels = True
    needs_captions = False
    needs_training_set = True

    def fits(self, contents: BatchSpec) -> bool:
        return not contents.composed

    def check(self, data: EvaluationData) -> None:
        super().check(data)
        if data.probe_train is None:
            raise UserError(
                f"{self.name} is fitted on labelled shards: name them in data.probe_train, or by "
                "--probe-train URL"
            )
        if not any(labels_of_first(data.probe_train)):
            raise UserError(without_labels(data.probe_train.manifest.url, self.name))

    def split(self, context: EvaluationContext) -> LabelledSplit:
        """Return the images to fit on and to measure; `UserError` where there are none."""
        self.check_one_embedding(context.gallery, "one of another")
        return context.once("labelled split", lambda: split_of(context))


def split_of(context: EvaluationContext) -> LabelledSplit:
    """Return the images with classes, less the training images that the measured set has too."""
    test, train = context.gallery, context.probe_train
    assert train is not None
    assert train.digests is not None
    assert test.digests is not None
    both = torch.isin(train.digests, test.digests)
    kept = [
        row
        for row, (labels, removed) in enumerate(zip(train.labels, both.tolist(), strict=True))
        if labels and not removed
    ]
    measured = [row for row, labels in enumerate(test.labels) if labels]
    of_train, of_test = [train.labels[row] for row in kept], [test.labels[row] for row in measured]
    names = sorted({label for labels in of_train for label in labels})
    _check_classes(names, {label for labels in of_test for label in labels}, context)
    number = {name: place for place, name in enumerate(names)}.__getitem__
    counts = {
        "num_images": len(measured),
        "images_skipped": len(test.labels) - len(measured),
        "num_train_images": len(kept),
        "num_train_images_removed": int(both.sum()),
        "num_classes": len(names),
    }
    return LabelledSplit(
        train.images[kept],
        memberships(of_train, number, len(names)).to(train.images.device),
        test.images[measured],
        memberships(of_test, number, len(names)).to(test.images.device),
        {name: float(count) for name, count in counts.items()},
    )


def _check_classes(train: Sequence[str], test: set[str], context: EvaluationContext) -> None:
    """Raise `UserError` unless there are several training classes, with all that are measured."""
    url, fitted = context.url, context.probe_url
    missing = sorted(test.difference(train))
    if not train:
        raise UserError(
            f"no image of {fitted} can be fitted on: each lacks a class or is in {url} too; name "
            "other shards"
        )
    if len(missing) == len(test):
        raise UserError(
            f"{url} and {fitted} have no class in common ({missing[0]!r} and others there, "
            f"{train[0]!r} and others here); name shards of the same classes"
        )
    if missing:
        raise UserError(
            f"{len(missing):,} of {len(test):,} classes of {url} have no image in {fitted}, the "
            f"first {missing[0]!r}; name shards of all its classes"
        )
    if len(train) == 1:
        raise UserError(f"all images of {fitted} are of one class; name shards of several classes")


def split_sizes(metrics: Mapping[str, float], name: str) -> str:
    """Return the numbers of images and classes, in words."""
    images, fitted, removed, classes = (
        metrics[f"{name}/{one}"]
        for one in ("num_images", "num_train_images", "num_train_images_removed", "num_classes")
    )
    without = f" ({removed:,.0f} removed, which are measured)" if removed else ""
    return f"{images:,.0f} images, fitted on {fitted:,.0f}{without}, {classes:,.0f} classes"
