"""`zero-shot`: classification of images by the names of their classes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from rich.table import Table
from torch import Tensor

from xmodal.data.class_files import NAMES, ClassFiles, is_number, read_class_files
from xmodal.data.reader import SampleReader
from xmodal.errors import UserError
from xmodal.evaluation.context import EvaluationContext, EvaluationData
from xmodal.evaluation.embedding import class_prototypes
from xmodal.evaluation.metrics.classes import Classes, memberships
from xmodal.evaluation.metrics.similarity import BY_DISTANCE
from xmodal.evaluation.metrics.zero_shot import (
    CUTOFFS,
    HIGHER_IS_BETTER,
    class_ranks,
    zero_shot_metrics,
)
from xmodal.evaluation.per_query import PerQuery
from xmodal.evaluation.protocols.config import ProtocolConfig
from xmodal.evaluation.protocols.protocol import Metrics, Protocol, labels_of_first
from xmodal.evaluation.report.section import Row, Section, measured_cell
from xmodal.evaluation.report.tables import add_columns, new_table, with_chance

LABELS = {"top1": "top 1", "top5": "top 5", "mean_class_recall": "class recall"}


class ZeroShotConfig(ProtocolConfig):
    """Accuracy of images classified by the names of their classes."""

    kind: Literal["zero-shot"] = "zero-shot"
    builds: ClassVar[str] = "ZeroShot"


@dataclass(frozen=True)
class Ranked:
    """Images that have classes, ranked by each variant of a method's score."""

    classes: Classes
    templates: int
    ranks: dict[str, Tensor]  # by variant, (labelled,) of an image's best own class


class ZeroShot(Protocol):
    """Accuracy among the first 1 and 5 classes, and mean recall of a class."""

    name = "zero-shot"
    higher_is_better = HIGHER_IS_BETTER
    variants = (BY_DISTANCE,)
    needs_labels = True
    needs_captions = False

    def check(self, data: EvaluationData) -> None:
        super().check(data)
        self.check_reads_text(data.method, "the names of classes")
        _check_labels(data.reader, read_class_files(data.shards))

    def measure(self, context: EvaluationContext) -> Metrics:
        found, metrics = self.ranked(context), Metrics()
        for variant, ranks in found.ranks.items():
            metrics |= zero_shot_metrics(ranks, found.classes, self.name + variant)
            metrics[f"{self.name}{variant}/num_templates"] = float(found.templates)
        return metrics

    def ranked(self, context: EvaluationContext) -> Ranked:
        """Return the result of `rank_classes`, computed once."""
        return context.once(self.name, lambda: rank_classes(context))

    def per_query(self, context: EvaluationContext) -> list[PerQuery]:
        found = self.ranked(context)
        numbers = context.gallery.numbers[found.classes.of_images.any(1)]
        return [
            PerQuery(
                self.name + variant,
                "image",
                numbers,
                torch.zeros_like(numbers),
                values={f"top{k}": 100 * (ranks < k).double() for k in CUTOFFS},
            )
            for variant, ranks in found.ranks.items()
        ]

    def table(self, metrics: Mapping[str, float], name: str) -> Table:
        table = new_table(f"{name}: {_sizes(metrics, name)}")
        add_columns(table, "", *(head for label in LABELS.values() for head in (label, "chance")))
        cells = with_chance(metrics, *(f"{name}/{one}" for one in LABELS))
        table.add_row("image → class", *cells)
        return table

    def section(self, metrics: Mapping[str, float], name: str) -> Section:
        heads = ["", *(f"{label}, %" for label in LABELS.values())]
        cells = [measured_cell(metrics, f"{name}/{one}") for one in LABELS]
        return Section(_sizes(metrics, name), heads, [Row("image → class", cells)])


def rank_classes(context: EvaluationContext) -> Ranked:
    """Rank the classes of the images by their names.

    Names and templates are those of the files beside the shards, if there are any, else the labels
    themselves and the templates of the recipe.
    """
    config, images, files = context.config, context.gallery.images, read_class_files(context.shards)
    classes, templates = _classes(context, files), files.templates or config.templates
    prototypes = class_prototypes(
        context.method,
        classes.names,
        templates,
        context.dataset.tokenizer,
        config.batch_size,
        context.device,
    )
    ranks = {
        variant: class_ranks(images, classes, prototypes, similarity, config.tile)
        for variant, similarity in context.similarities(images, prototypes).items()
    }
    return Ranked(classes, len(templates), ranks)


def images_and_classes(metrics: Mapping[str, float], name: str) -> str:
    """Return the numbers of images and classes, in words."""
    images, classes = metrics[f"{name}/num_images"], metrics[f"{name}/num_classes"]
    return f"{images:,.0f} images × {classes:,.0f} classes"


def _sizes(metrics: Mapping[str, float], name: str) -> str:
    sizes, templates = images_and_classes(metrics, name), metrics.get(f"{name}/num_templates")
    return sizes if templates is None else f"{sizes}, templates: {templates:,.0f}"


def _classes(context: EvaluationContext, files: ClassFiles) -> Classes:
    if files.names is None:
        return context.classes
    gallery = context.gallery
    of_images = memberships(gallery.labels, files.number, len(files.names))
    return Classes(files.names, of_images.to(gallery.images.device))


def _check_labels(reader: SampleReader, files: ClassFiles) -> None:
    """Raise `UserError` where the first labels are not those of the files beside the shards."""
    labels = {label for labels in labels_of_first(reader) for label in labels}
    if files.names is not None:
        for label in labels:
            files.number(label)
    elif "cls" in reader[0].files and all(map(is_number, labels)):
        raise UserError(
            f"the classes of {files.shards} are numbers, which say nothing to zero-shot: write "
            f"{NAMES} beside its shards, a line for the name of each class from 0"
        )
