"""`false-captions`: an image's own caption is chosen among captions that are false of it."""

from collections.abc import Mapping
from itertools import chain
from typing import ClassVar, Literal

import torch
from rich.table import Table
from rich.text import Text

from xmodal.data.decode import BadSample
from xmodal.data.evaluation import Contrast
from xmodal.data.reader import SampleReader
from xmodal.data.sample_spec import PROBED
from xmodal.errors import UserError
from xmodal.evaluation.context import EvaluationContext, EvaluationData
from xmodal.evaluation.embedding import embed_captions
from xmodal.evaluation.metrics.contrasts import (
    HIGHER_IS_BETTER,
    Judged,
    choice_metrics,
    judge,
    rows_by_category,
    score_pairs,
)
from xmodal.evaluation.metrics.similarity import BY_DISTANCE
from xmodal.evaluation.per_query import PerQuery
from xmodal.evaluation.protocols.config import ProtocolConfig
from xmodal.evaluation.protocols.protocol import Metrics, Protocol
from xmodal.evaluation.report.section import Row, Section, measured_cell
from xmodal.evaluation.report.tables import add_columns, new_table, with_chance
from xmodal.methods.scores import Score, as_score


class FalseCaptionsConfig(ProtocolConfig):
    """Accuracy of the choice of an image's own caption among false ones."""

    kind: Literal["false-captions"] = "false-captions"
    builds: ClassVar[str] = "FalseCaptions"


class FalseCaptions(Protocol):
    """Share of captions that score higher than all their false captions, by category.

    Attributes:
        metrics: of a set as a whole and of each of its categories, for the table.
        counts: name of the number of things that are judged.
    """

    name = "false-captions"
    higher_is_better: ClassVar[tuple[str, ...]] = HIGHER_IS_BETTER
    variants = (BY_DISTANCE,)
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    counts: ClassVar[str] = "num_captions"

    def check(self, data: EvaluationData) -> None:
        super().check(data)
        self.check_reads_text(data.method, "false captions")
        if not _any_false_caption(data.reader):
            raise UserError(without_false_captions(data.reader.manifest.url, self.name))

    def measure(self, context: EvaluationContext) -> Metrics:
        contrasts = context.gallery.contrasts
        if not contrasts:
            raise UserError(without_false_captions(context.url, self.name))
        self.check_contrasts(contrasts, context.url)
        metrics: Metrics = {}
        for variant, judged in judge_contrasts(context).items():
            metrics |= self.metrics_of(judged, contrasts, self.name + variant)
        return metrics

    def check_contrasts(self, contrasts: list[Contrast], url: str) -> None:
        """Raise `UserError` where a set is another one than the protocol's."""

    def metrics_of(self, judged: Judged, contrasts: list[Contrast], name: str) -> Metrics:
        """Return the metrics under the name of the protocol or of a variant."""
        return choice_metrics(judged, [one.category for one in contrasts], name)

    def per_query(self, context: EvaluationContext) -> list[PerQuery]:
        contrasts = context.gallery.contrasts
        found = []
        for variant, judged in judge_contrasts(context).items():
            found += self.results_of(judged, contrasts, self.name + variant)
        return found

    def results_of(self, judged: Judged, contrasts: list[Contrast], name: str) -> list[PerQuery]:
        """Return whether each caption is chosen, of all and of each category."""
        numbers, captions = torch.tensor([(one.number, one.place) for one in contrasts]).T
        values = {"accuracy": 100 * judged.correct.double()}
        whole = PerQuery(name, "caption", numbers, captions, values=values)
        rows = rows_by_category([one.category for one in contrasts])
        return [whole, *(whole.of(own, f"{name}/{category}") for category, own in rows.items())]

    def table(self, metrics: Mapping[str, float], name: str) -> Table:
        table = new_table(f"{name}: {self.sizes(metrics, name)}")
        add_columns(table, "", *(head for one in self.metrics for head in (one, "chance")))
        for label, cells in self.rows(metrics, name).items():
            table.add_row(Text(label), *with_chance(metrics, *cells))
        return table

    def section(self, metrics: Mapping[str, float], name: str) -> Section:
        heads = ["", *(f"{one}, %" for one in self.metrics)]
        rows = [
            Row(label, [measured_cell(metrics, one) for one in cells])
            for label, cells in self.rows(metrics, name).items()
        ]
        return Section(self.sizes(metrics, name), heads, rows)

    def sizes(self, metrics: Mapping[str, float], name: str) -> str:
        """Return the number of things that are judged, in words."""
        return f"{metrics[f'{name}/{self.counts}']:,.0f} {self.counts.removeprefix('num_')}"

    def rows(self, metrics: Mapping[str, float], name: str) -> dict[str, list[str]]:
        """Return the metrics in each row of a table, by its label."""
        inner = (one.removeprefix(f"{name}/") for one in metrics if one.startswith(f"{name}/"))
        ending = f"/{self.counts}"
        categories = [one.removesuffix(ending) for one in inner if one.endswith(ending)]
        prefixes = {"all": name} | {one: f"{name}/{one}" for one in categories}
        rows = {
            label: [f"{prefix}/{one}" for one in self.metrics] for label, prefix in prefixes.items()
        }
        if categories and f"{name}/category_mean" in metrics:
            rows["mean of categories"] = [f"{name}/category_mean"]
        return rows


def judge_contrasts(context: EvaluationContext) -> dict[str, Judged]:
    """Judge the captions that have false ones, by each variant of the method's score, once."""
    return context.once("contrasts", lambda: _judge(context))


def without_false_captions(url: str, protocol: str) -> str:
    """Return the error about shards without false captions."""
    return (
        f"{url} has no false_captions in its samples' JSON, which {protocol} is measured by; "
        "choose another protocol, or use shards with them"
    )


def _judge(context: EvaluationContext) -> dict[str, Judged]:
    gallery, method = context.gallery, context.method
    said = [[one.caption, *one.false] for one in gallery.contrasts]
    # Each text once: equal captions have equal embeddings, and tie.
    rows = {text: row for row, text in enumerate(dict.fromkeys(chain(*said)))}
    texts = embed_captions(
        method,
        list(rows),
        context.dataset.tokenizer,
        context.config.batch_size,
        context.device,
    )
    image_of = {number: row for row, number in enumerate(gallery.numbers.tolist())}
    pairs = torch.tensor(
        [
            (image_of[one.number], rows[text])
            for one, captions in zip(gallery.contrasts, said, strict=True)
            for text in captions
        ]
    )
    scores: dict[str, Score] = {"": as_score(method.score)}
    if method.shortlist is not None:
        scores[BY_DISTANCE] = method.shortlist
    options = [len(captions) for captions in said]
    return {
        variant: judge(score_pairs(score, gallery.images, texts, pairs), options)
        for variant, score in scores.items()
    }


def _any_false_caption(reader: SampleReader) -> bool:
    for number in range(min(PROBED, len(reader))):
        try:
            if any(reader[number].false_captions()):
                return True
        except BadSample:
            continue
    return False
