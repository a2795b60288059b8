"""`class`: images find captions, and captions images, of the same class."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from markupsafe import Markup
from rich.table import Table
from torch import Tensor

from xmodal.evaluation.context import EvaluationContext
from xmodal.evaluation.metrics import average_precision
from xmodal.evaluation.metrics.average_precision import CURVE, CUTOFF, Precisions, class_precisions
from xmodal.evaluation.metrics.recall import DIRECTIONS
from xmodal.evaluation.metrics.similarity import BY_DISTANCE
from xmodal.evaluation.per_query import PerQuery, Role
from xmodal.evaluation.protocols.all_captions import LABELS, gallery_sizes
from xmodal.evaluation.protocols.config import ProtocolConfig
from xmodal.evaluation.protocols.protocol import Metrics, Protocol
from xmodal.evaluation.report.curve import precision_recall
from xmodal.evaluation.report.section import Row, Section, measured_cell
from xmodal.evaluation.report.tables import add_columns, new_table, percent, with_chance

ByDirection = Mapping[str, Precisions]  # of the queries of each direction


class ClassConfig(ProtocolConfig):
    """Mean average precision of images and captions of the same class."""

    kind: Literal["class"] = "class"
    builds: ClassVar[str] = "ByClass"


class ByClass(Protocol):
    """Mean average precision in both directions, and precision by recall."""

    name = "class"
    higher_is_better = average_precision.HIGHER_IS_BETTER
    logged = ("map", *(f"{direction}/map" for direction in DIRECTIONS))
    variants: ClassVar[tuple[str, ...]] = (BY_DISTANCE,)
    needs_labels = True

    def measure(self, context: EvaluationContext) -> Metrics:
        metrics = Metrics()
        for variant, found in self.judged(context).items():
            metrics |= average_precision.class_metrics(
                found, context.gallery, context.classes, self.name + variant
            )
        return metrics

    def judged(self, context: EvaluationContext) -> dict[str, ByDirection]:
        """Return the result of `judge`, computed once."""
        return context.once(self.name, lambda: self.judge(context))

    def judge(self, context: EvaluationContext) -> dict[str, ByDirection]:
        """Judge the orders of both directions, by each variant of the score."""
        gallery, tile = context.gallery, context.config.tile
        return {
            variant: class_precisions(gallery, context.classes, similarity, tile)
            for variant, similarity in context.similarities(gallery.images, gallery.texts).items()
        }

    def per_query(self, context: EvaluationContext) -> list[PerQuery]:
        gallery = context.gallery
        numbers = gallery.numbers
        queries: dict[str, tuple[Role, Tensor, Tensor]] = {
            "image_to_text": ("image", numbers, torch.zeros_like(numbers)),
            "text_to_image": ("caption", numbers[gallery.owners], gallery.caption_numbers()),
        }
        return [
            _per_query(f"{self.name}{variant}/{direction}", *queries[direction], of_queries)
            for variant, found in self.judged(context).items()
            for direction, of_queries in found.items()
        ]

    def table(self, metrics: Mapping[str, float], name: str) -> Table:
        mean = f"mean mAP {_mean(metrics, name)}"
        table = new_table(f"{name}: {_sizes(metrics, name)}", mean)
        add_columns(table, "", "mAP", "chance", f"mAP@{CUTOFF}", "chance", "queries")
        for direction, label in LABELS.items():
            prefix = f"{name}/{direction}"
            cells = with_chance(metrics, f"{prefix}/map", f"{prefix}/map@{CUTOFF}")
            table.add_row(label, *cells, f"{metrics[f'{prefix}/queries']:,.0f}")
        return table

    def section(self, metrics: Mapping[str, float], name: str) -> Section:
        rows = []
        for direction, label in LABELS.items():
            prefix = f"{name}/{direction}"
            values = [measured_cell(metrics, f"{prefix}/{one}") for one in ("map", f"map@{CUTOFF}")]
            counts = [
                f"{metrics[f'{prefix}/{one}']:,.0f}" for one in ("queries", "queries_skipped")
            ]
            rows.append(Row(label, [*values, *counts]))
        curves = {d: [metrics[f"{name}/{d}/{one}"] for one in CURVE] for d in LABELS}
        return Section(
            f"{_sizes(metrics, name)} · mean mAP {_mean(metrics, name)}",
            ["", "mAP, %", f"mAP@{CUTOFF}, %", "queries", "skipped"],
            rows,
            Markup(precision_recall(curves, name)),
            "precision, %, by recall",
            LABELS,
        )


def _per_query(
    name: str, role: Role, numbers: Tensor, captions: Tensor, found: Precisions
) -> PerQuery:
    """Return the average precision of the queries that have relevant items."""
    values = {"map": 100 * found.average, f"map@{CUTOFF}": 100 * found.average_at}
    return PerQuery(name, role, numbers, captions, values=values).of(found.relevant > 0, name)


def _sizes(metrics: Mapping[str, float], name: str) -> str:
    return f"{gallery_sizes(metrics, name)}, {metrics[f'{name}/num_classes']:,.0f} classes"


def _mean(metrics: Mapping[str, float], name: str) -> str:
    return f"{metrics[f'{name}/map']:.1f} (chance {percent(metrics[f'{name}/map_chance'])})"
