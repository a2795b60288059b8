"""The base of every evaluation protocol.

A protocol is one file: a configuration that registers its name, and a class that checks the
protocol's needs, measures its metrics, and shows them.

    class AgreementConfig(ProtocolConfig):
        kind: Literal["agreement"] = "agreement"
        builds: ClassVar[str] = "Agreement"

    class Agreement(Protocol):
        name = "agreement"
        higher_is_better = ("cosine",)

        def measure(self, context: EvaluationContext) -> Metrics:
            gallery = context.gallery
            cosines = (gallery.images[gallery.owners] * gallery.texts).sum(1)
            return {"agreement/cosine": float(cosines.mean())}
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import ClassVar, Literal

from rich.table import Table

from xmodal.data.batch import BatchSpec
from xmodal.data.decode import BadSample
from xmodal.data.reader import SampleReader
from xmodal.data.sample_spec import PROBED, has_captions
from xmodal.errors import UserError
from xmodal.evaluation.context import EvaluationContext, EvaluationData, without_labels
from xmodal.evaluation.gallery import Gallery
from xmodal.evaluation.metrics.similarity import BY_DISTANCE
from xmodal.evaluation.per_query import PerQuery
from xmodal.evaluation.report.section import Row, Section, measured_cell
from xmodal.evaluation.report.tables import add_columns, new_table, percent
from xmodal.evaluation.retrieved import RetrievedExample
from xmodal.methods.method import Method
from xmodal.models.features import Features

Shown = Literal["captions", "images", "queries"]
Metrics = dict[str, float]  # `PROTOCOL/METRIC` and its value


class Protocol(ABC):
    """One way of measuring a method.

    Attributes:
        name: the protocol's, the same as its configuration's `kind`; begins all its metrics.
        higher_is_better: names of metrics, without the protocol's. The value of a random order
            is measured beside a metric as NAME_chance.
        lower_is_better: likewise.
        logged: metrics in the line of the training log; none: the headline.
        variants: endings of the name for further measurements, such as `-by-distance`.
        needs_labels: whether samples must have labels.
        needs_captions: whether samples must have captions, or features of them.
        needs_training_set: whether it is fitted on the images of `data.probe_train`.
        shows: sort of its retrieved examples; a report shows one protocol of each sort. None: it
            has none, and the report shows those of the default protocol.
    """

    name: ClassVar[str]
    higher_is_better: ClassVar[tuple[str, ...]] = ()
    lower_is_better: ClassVar[tuple[str, ...]] = ()
    logged: ClassVar[tuple[str, ...]] = ()
    variants: ClassVar[tuple[str, ...]] = ()
    needs_labels: ClassVar[bool] = False
    needs_captions: ClassVar[bool] = True
    needs_training_set: ClassVar[bool] = False
    shows: ClassVar[Shown | None] = None

    @property
    def headline(self) -> str:
        """Metric of the curve in the report."""
        return (*self.higher_is_better, *self.lower_is_better)[0]

    def fits(self, contents: BatchSpec) -> bool:
        """Tell whether a method that learns from such batches can be measured: pairs, here."""
        return not contents.composed and contents.views == 1

    def check(self, data: EvaluationData) -> None:
        """Raise `UserError` where the method or the first samples show that this protocol cannot
        be measured. It is called before anything is encoded.
        """
        url = data.reader.manifest.url
        if self.needs_labels and not any(labels_of_first(data.reader)):
            raise UserError(without_labels(url, self.name))
        if self.needs_captions and not has_captions(data.reader):
            raise UserError(
                f"{url} has classes and no captions, which {self.name} is measured by; choose "
                "another protocol, such as zero-shot"
            )

    @abstractmethod
    def measure(self, context: EvaluationContext) -> Metrics:
        """Return the value of every metric, as `NAME/METRIC`. All ranks call this together.

        Raises `UserError` where the protocol is not defined on the set.
        """

    def examples(
        self,
        context: EvaluationContext,  # noqa: ARG002
    ) -> list[RetrievedExample]:
        """Return retrieved examples of the sort `shows`. All ranks call this together."""
        return []

    def per_query(
        self,
        context: EvaluationContext,  # noqa: ARG002
    ) -> list[PerQuery]:
        """Return the results of each query, for comparisons, once all is measured. All ranks call
        this together.
        """
        return []

    def variants_of(self, method: Method) -> tuple[str, ...]:
        """Return the variants that a method is measured by."""
        return tuple(one for one in self.variants if one != BY_DISTANCE or method.learned_score)

    def table(self, metrics: Mapping[str, float], name: str) -> Table:
        """Return the results under `name`, of this or of a variant, for the terminal."""
        table = new_table(name)
        add_columns(table, "", "value", "chance")
        for metric in self._measured(metrics, name):
            chance = metrics.get(f"{name}/{metric}_chance")
            value = f"{metrics[f'{name}/{metric}']:.4g}"
            table.add_row(metric, value, "" if chance is None else percent(chance))
        return table

    def section(self, metrics: Mapping[str, float], name: str) -> Section:
        """Return the results under `name`, of this or of a variant, for the report."""
        rows = [
            Row(metric, [f"{metrics[f'{name}/{metric}']:.4g}"])
            if f"{name}/{metric}_chance" not in metrics
            else Row(metric, [measured_cell(metrics, f"{name}/{metric}")])
            for metric in self._measured(metrics, name)
        ]
        return Section("", [], rows)

    def check_one_embedding(self, gallery: Gallery, other: str) -> None:
        """Raise `UserError` for a method with several embeddings of an item."""
        if gallery.images.ndim != 2:
            raise UserError(
                f"{self.name} compares one embedding of an image with {other}, and this method has "
                f"{gallery.images.shape[1]} of each; choose another protocol"
            )

    def check_reads_text(self, method: Method, what: str) -> None:
        """Raise `UserError` for a method that reads features of texts, and cannot encode others."""
        texts = [part for name, part in method.named_modules() if name.split(".")[0] == "text"]
        if any(isinstance(part, Features) for part in texts):
            raise UserError(
                f"{self.name} encodes {what}, but method.text is kind: features: the shards hold "
                "what its encoder made of captions; choose another protocol"
            )

    def _measured(self, metrics: Mapping[str, float], name: str) -> list[str]:
        known = (*self.higher_is_better, *self.lower_is_better)
        return [metric for metric in known if f"{name}/{metric}" in metrics]


def labels_of_first(reader: SampleReader) -> Iterator[list[str]]:
    """Yield the labels of each of the first samples that can be used."""
    for number in range(min(PROBED, len(reader))):
        with suppress(BadSample):
            yield reader[number].labels()
