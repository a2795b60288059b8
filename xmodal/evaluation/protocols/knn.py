"""`knn`: classification of images by the vote of their nearest neighbours in a training set."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from rich.table import Table

from xmodal.evaluation.context import EvaluationContext
from xmodal.evaluation.metrics.knn import NEIGHBOURS, votes_of_nearest
from xmodal.evaluation.metrics.recall import chance_recall
from xmodal.evaluation.protocols.config import ProtocolConfig
from xmodal.evaluation.protocols.labelled_split import FittedProtocol, split_sizes
from xmodal.evaluation.protocols.protocol import Metrics
from xmodal.evaluation.report.section import Row, Section, measured_cell
from xmodal.evaluation.report.tables import add_columns, new_table, with_chance


class KnnConfig(ProtocolConfig):
    """Accuracy of the nearest training images' vote for the class of an image."""

    kind: Literal["knn"] = "knn"
    builds: ClassVar[str] = "Knn"


class Knn(FittedProtocol):
    """Accuracy of the vote of the 1, 5 and 20 nearest."""

    name = "knn"
    higher_is_better = tuple(f"accuracy@{k}" for k in NEIGHBOURS)

    @property
    def headline(self) -> str:
        return self.higher_is_better[-1]

    def measure(self, context: EvaluationContext) -> Metrics:
        split, tile = self.split(context), context.config.tile
        votes = votes_of_nearest(split.test, split.of_test, split.train, split.of_train, tile)
        chance = chance_recall(split.of_test.sum(1), split.of_test.shape[1], 1).mean()
        found = split.counts.copy()
        for name, right in zip(self.higher_is_better, votes.unbind(1), strict=True):
            found |= {name: 100 * float(right.mean()), f"{name}_chance": 100 * float(chance)}
        return {f"{self.name}/{metric}": value for metric, value in found.items()}

    def table(self, metrics: Mapping[str, float], name: str) -> Table:
        table = new_table(f"{name}: {split_sizes(metrics, name)}")
        add_columns(table, "", *(head for k in NEIGHBOURS for head in (f"{k}-NN", "chance")))
        cells = with_chance(metrics, *(f"{name}/{one}" for one in self.higher_is_better))
        table.add_row("image → class", *cells)
        return table

    def section(self, metrics: Mapping[str, float], name: str) -> Section:
        cells = [measured_cell(metrics, f"{name}/{one}") for one in self.higher_is_better]
        heads = ["", *(f"{k}-NN, %" for k in NEIGHBOURS)]
        return Section(split_sizes(metrics, name), heads, [Row("image → class", cells)])
