"""`linear-probe`: accuracy of a linear classifier of frozen embeddings of images."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from rich.table import Table

from xmodal.distributed.collectives import gather_objects, rank
from xmodal.evaluation.context import EvaluationContext
from xmodal.evaluation.metrics.linear_probe import HIGHEST, linear_probe, strength
from xmodal.evaluation.metrics.zero_shot import HIGHER_IS_BETTER, accuracies
from xmodal.evaluation.protocols.config import ProtocolConfig
from xmodal.evaluation.protocols.labelled_split import FittedProtocol, LabelledSplit, split_sizes
from xmodal.evaluation.protocols.protocol import Metrics
from xmodal.evaluation.protocols.zero_shot import LABELS
from xmodal.evaluation.report.section import Row, Section, measured_cell
from xmodal.evaluation.report.tables import add_columns, new_table, with_chance


class LinearProbeConfig(ProtocolConfig):
    """Accuracy of logistic regression on frozen embeddings of images."""

    kind: Literal["linear-probe"] = "linear-probe"
    builds: ClassVar[str] = "LinearProbe"


class LinearProbe(FittedProtocol):
    """Accuracy among the first 1 and 5 classes, and mean recall of a class."""

    name = "linear-probe"
    higher_is_better = HIGHER_IS_BETTER

    def measure(self, context: EvaluationContext) -> Metrics:
        split = self.split(context)
        found = _probe(split)
        # Those of one rank for all: processors may differ in the last bits.
        found = gather_objects([found] if rank() == 0 else [])[0]
        return {f"{self.name}/{metric}": value for metric, value in (found | split.counts).items()}

    def table(self, metrics: Mapping[str, float], name: str) -> Table:
        table = new_table(f"{name}: {split_sizes(metrics, name)}", _strength(metrics, name))
        add_columns(table, "", *(head for label in LABELS.values() for head in (label, "chance")))
        table.add_row("image → class", *with_chance(metrics, *(f"{name}/{one}" for one in LABELS)))
        return table

    def section(self, metrics: Mapping[str, float], name: str) -> Section:
        heads = ["", *(f"{label}, %" for label in LABELS.values())]
        cells = [measured_cell(metrics, f"{name}/{one}") for one in LABELS]
        sizes = f"{split_sizes(metrics, name)} · {_strength(metrics, name)}"
        return Section(sizes, heads, [Row("image → class", cells)])


def _probe(split: LabelledSplit) -> Metrics:
    train, test = (side.double().cpu().numpy() for side in (split.train, split.test))
    scores, chosen = linear_probe(train, split.of_train.cpu().numpy(), test)
    return ranked(torch.from_numpy(scores), split.of_test.cpu()) | {"C": chosen}


def ranked(scores: torch.Tensor, of_images: torch.Tensor) -> Metrics:
    """Return accuracies of scores (images, classes), of which equals count as the wrong one first.

    `of_images` is (images, classes) bool.
    """
    best = scores.masked_fill(~of_images, -torch.inf).amax(1, keepdim=True)
    return accuracies(((scores >= best) & ~of_images).sum(1), of_images)


def _strength(metrics: Mapping[str, float], name: str) -> str:
    chosen = metrics[f"{name}/C"]
    end = {strength(HIGHEST): "largest", strength(-HIGHEST): "smallest"}.get(chosen)
    hint = f", the {end} that is tried: another may be better" if end else ""
    return f"C = {chosen:.3g}{hint}"
