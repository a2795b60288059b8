"""`gap`: distance between the clouds of images and of texts."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from rich.table import Table

from xmodal.distributed.collectives import gather_objects, rank
from xmodal.errors import UserError
from xmodal.evaluation.context import EvaluationContext
from xmodal.evaluation.metrics.gap import LOWER_IS_BETTER, gap_metrics
from xmodal.evaluation.protocols.config import ProtocolConfig
from xmodal.evaluation.protocols.protocol import Metrics, Protocol
from xmodal.evaluation.report.section import Row, Section
from xmodal.evaluation.report.tables import add_columns, new_table

LABELS = {
    "centroid_distance": "centroids",
    "paired_cosine": "cosine",
    "probe_accuracy": "probe, %",
    "mmd": "MMD²",
    "alignment": "alignment",
    "uniformity": "uniformity",
    "rmg": "RMG",
}


class GapConfig(ProtocolConfig):
    """The modality gap: distances of images and texts as two clouds."""

    kind: Literal["gap"] = "gap"
    builds: ClassVar[str] = "Gap"


class Gap(Protocol):
    """Measures of the modality gap, of pairs of an image and its first caption."""

    name = "gap"
    lower_is_better = LOWER_IS_BETTER
    logged = ("probe_accuracy",)

    def measure(self, context: EvaluationContext) -> Metrics:
        if len(context.gallery.images) < 2:
            raise UserError(f"gap is measured on two images at least, and {context.url} has one")
        # On one rank for all.
        return gather_objects([gap_metrics(context.gallery)] if rank() == 0 else [])[0]

    def table(self, metrics: Mapping[str, float], name: str) -> Table:
        table = new_table(f"{name}: {metrics[f'{name}/pairs']:,.0f} pairs")
        add_columns(table, *LABELS.values())
        table.add_row(*(f"{metrics[f'{name}/{one}']:.3g}" for one in LABELS))
        return table

    def section(self, metrics: Mapping[str, float], name: str) -> Section:
        values = [f"{metrics[f'{name}/{one}']:.3g}" for one in LABELS]
        pairs = f"{metrics[f'{name}/pairs']:,.0f} pairs"
        return Section(pairs, list(LABELS.values()), [Row(None, values)])
