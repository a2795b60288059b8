"""`zero-shot`: classification of images by the names of their classes."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from rich.table import Table

from xmodal.errors import UserError
from xmodal.evaluation.context import EvaluationContext, EvaluationData
from xmodal.evaluation.embedding import class_prototypes
from xmodal.evaluation.metrics.similarity import BY_DISTANCE
from xmodal.evaluation.metrics.zero_shot import HIGHER_IS_BETTER, zero_shot_metrics
from xmodal.evaluation.protocols.config import ProtocolConfig
from xmodal.evaluation.protocols.protocol import Metrics, Protocol
from xmodal.evaluation.report.section import Row, Section, measured_cell
from xmodal.evaluation.report.tables import add_columns, new_table, with_chance
from xmodal.methods.method import Method
from xmodal.models.features import Features

LABELS = {"top1": "top 1", "top5": "top 5", "mean_class_recall": "class recall"}


class ZeroShotConfig(ProtocolConfig):
    """Accuracy of images classified by the names of their classes."""

    kind: Literal["zero-shot"] = "zero-shot"
    builds: ClassVar[str] = "ZeroShot"


class ZeroShot(Protocol):
    """Accuracy among the first 1 and 5 classes, and mean recall of a class."""

    name = "zero-shot"
    higher_is_better = HIGHER_IS_BETTER
    variants = (BY_DISTANCE,)
    needs_labels = True

    def check(self, data: EvaluationData) -> None:
        super().check(data)
        if not _reads_text(data.method):
            raise UserError(
                "zero-shot encodes the names of classes, but method.text is kind: features: the "
                "shards hold what its encoder made of captions; choose another protocol"
            )

    def measure(self, context: EvaluationContext) -> Metrics:
        return measure_zero_shot(context, self.name)

    def table(self, metrics: Mapping[str, float], name: str) -> Table:
        table = new_table(f"{name}: {images_and_classes(metrics, name)}")
        add_columns(table, "", *(head for label in LABELS.values() for head in (label, "chance")))
        cells = with_chance(metrics, *(f"{name}/{one}" for one in LABELS))
        table.add_row("image → class", *cells)
        return table

    def section(self, metrics: Mapping[str, float], name: str) -> Section:
        heads = ["", *(f"{label}, %" for label in LABELS.values())]
        cells = [measured_cell(metrics, f"{name}/{one}") for one in LABELS]
        return Section(images_and_classes(metrics, name), heads, [Row("image → class", cells)])


def measure_zero_shot(context: EvaluationContext, protocol: str) -> Metrics:
    """Measure the classification of images by the names of their classes."""
    config, classes, images = context.config, context.classes, context.gallery.images
    prototypes = class_prototypes(
        context.method,
        classes.names,
        config.templates,
        context.dataset.tokenizer,
        config.batch_size,
        context.device,
    )
    metrics = Metrics()
    for variant, similarity in context.similarities(images, prototypes).items():
        metrics |= zero_shot_metrics(
            images, classes, prototypes, similarity, protocol + variant, config.tile
        )
    return metrics


def images_and_classes(metrics: Mapping[str, float], name: str) -> str:
    """Return the numbers of images and classes, in words."""
    images, classes = metrics[f"{name}/num_images"], metrics[f"{name}/num_classes"]
    return f"{images:,.0f} images × {classes:,.0f} classes"


def _reads_text(method: Method) -> bool:
    texts = [part for name, part in method.named_modules() if name.split(".")[0] == "text"]
    return not any(isinstance(part, Features) for part in texts)
