"""`visual`: images find images that share a label."""

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

from rich.table import Table
from torch import Tensor

from xmodal.data.batch import BatchSpec
from xmodal.errors import UserError
from xmodal.evaluation.context import EvaluationContext
from xmodal.evaluation.metrics.classes import Classes
from xmodal.evaluation.metrics.visual import (
    CUTOFFS,
    HIGHER_IS_BETTER,
    WITH_TEXT,
    same_image,
    visual_metrics,
)
from xmodal.evaluation.protocols.config import ProtocolConfig
from xmodal.evaluation.protocols.protocol import Metrics, Protocol
from xmodal.evaluation.protocols.zero_shot import images_and_classes
from xmodal.evaluation.report.section import Row, Section, measured_cell
from xmodal.evaluation.report.tables import add_columns, new_table, percent
from xmodal.evaluation.retrieved import Part, RetrievedExample, top_images
from xmodal.methods.method import Method

LABELS = {
    **{f"recall@{k}": f"R@{k}" for k in CUTOFFS},
    "map@r": "mAP@R",
    "knn_accuracy": "k-NN",
    "nmi": "NMI",
    "ndcg": "nDCG",
    "ndcg@10": "nDCG@10",
}
VisualMetrics = Callable[[Tensor, Tensor, Classes, str, int], Metrics]


class VisualConfig(ProtocolConfig):
    """Recall, precision and clusters of images that share a label."""

    kind: Literal["visual"] = "visual"
    builds: ClassVar[str] = "Visual"


class Visual(Protocol):
    """Similarity of images; of a method that has it, of images with their texts too."""

    name = "visual"
    higher_is_better: ClassVar[tuple[str, ...]] = HIGHER_IS_BETTER
    logged: ClassVar[tuple[str, ...]] = ("recall@1",)
    variants = (WITH_TEXT,)
    needs_labels = True
    needs_captions = False
    shows = "images"

    def fits(self, contents: BatchSpec) -> bool:
        return not contents.composed

    def variants_of(self, method: Method) -> tuple[str, ...]:
        both = method.contents.views > 1 and method.contents.captions
        return (WITH_TEXT,) if both else ()

    def measure(self, context: EvaluationContext) -> Metrics:
        return self.measure_visual(context, visual_metrics)

    def measure_visual(self, context: EvaluationContext, measure: VisualMetrics) -> Metrics:
        """Measure how well images find images, without and with their texts."""
        gallery, classes = context.gallery, context.classes
        self.check_one_embedding(gallery, "one of another")
        if classes.of_images.sum(0).max() < 2:
            raise UserError(
                f"no two images of {context.url} share a label, which {self.name} is measured by; "
                "choose another protocol"
            )
        metrics = Metrics()
        for variant, images in (("", gallery.images), (WITH_TEXT, gallery.fused)):
            if images is not None:
                name, tile = self.name + variant, context.config.tile
                metrics |= measure(images, gallery.image_ids, classes, name, tile)
        return metrics

    def examples(self, context: EvaluationContext) -> list[RetrievedExample]:
        gallery = context.gallery
        parts = [Part(number) for number in gallery.numbers.tolist()]
        relevant, removed = context.classes.shared_by, same_image(gallery.image_ids)
        return top_images(parts, gallery.images, gallery, relevant, removed, context.config.tile)

    def table(self, metrics: Mapping[str, float], name: str) -> Table:
        table = new_table(f"{name}: {images_and_classes(metrics, name)}")
        add_columns(table, "", "%", "chance")
        for metric, label in _labels(metrics, name).items():
            chance = metrics.get(f"{name}/{metric}_chance")
            value = f"{metrics[f'{name}/{metric}']:.1f}"
            table.add_row(label, value, "" if chance is None else percent(chance))
        return table

    def section(self, metrics: Mapping[str, float], name: str) -> Section:
        labels = _labels(metrics, name)
        heads = ["", *(f"{label}, %" for label in labels.values())]
        cells = [measured_cell(metrics, f"{name}/{metric}") for metric in labels]
        return Section(images_and_classes(metrics, name), heads, [Row("image → image", cells)])


def _labels(metrics: Mapping[str, float], name: str) -> dict[str, str]:
    labels = {metric: label for metric, label in LABELS.items() if f"{name}/{metric}" in metrics}
    if "knn_accuracy" in labels:
        labels["knn_accuracy"] = f"{metrics[f'{name}/num_neighbours']:.0f}-NN"
    return labels
