"""`composed`: retrieval of the target image by an image and a modification.

A query is searched in a gallery of its own: here, all images but the one that it starts from.
Ties count against the model.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from rich.table import Table

from xmodal.data.batch import BatchSpec
from xmodal.data.composed import record_of
from xmodal.data.decode import BadSample
from xmodal.data.reader import SampleReader
from xmodal.data.sample_spec import PROBED
from xmodal.data.samples import RawSample
from xmodal.errors import UserError
from xmodal.evaluation.context import EvaluationContext, EvaluationData
from xmodal.evaluation.gallery import Gallery, Queries
from xmodal.evaluation.metrics.own_ranks import OwnRanks
from xmodal.evaluation.metrics.recall import median_rank
from xmodal.evaluation.metrics.tiles import Choice
from xmodal.evaluation.per_query import NOWHERE, PerQuery
from xmodal.evaluation.protocols.config import ProtocolConfig
from xmodal.evaluation.protocols.protocol import Metrics, Protocol
from xmodal.evaluation.protocols.search import Search
from xmodal.evaluation.report.section import Cell, Row, Section, measured_cell
from xmodal.evaluation.report.tables import add_columns, new_table, with_chance
from xmodal.evaluation.retrieved import Part, RetrievedExample, top_images

CHUNK = 100  # samples that are looked through at a time


class ComposedConfig(ProtocolConfig):
    """Recall of composed queries among all images but their source."""

    kind: Literal["composed"] = "composed"
    builds: ClassVar[str] = "Composed"


class Composed(Protocol):
    """Recall of composed queries, their median rank, and the number without a target.

    Queries without a relevant image in the gallery count as not found, and in the median as last
    of all images.

    Attributes:
        cutoffs: the K of the recalls.
        reads: the key of a query's JSON that this reads beside source and target.
        labels: the number of labels that an image of the gallery must have.
    """

    name = "composed"
    cutoffs: ClassVar[tuple[int, ...]] = (1, 5, 10, 50, 100)
    reads: ClassVar[str | None] = None
    labels: ClassVar[int] = 0
    lower_is_better = ("median_rank",)
    higher_is_better = tuple(f"recall@{k}" for k in cutoffs)
    shows = "queries"
    needs_captions = False

    def fits(self, contents: BatchSpec) -> bool:
        return contents.composed

    def check(self, data: EvaluationData) -> None:
        assert data.gallery is not None
        queries, gallery = data.reader, data.gallery
        records = list(_first_records(queries))
        self.check_records(records, queries.manifest.url)
        asked = {one for record in records for one in (*record["target_ids"], record["target_id"])}
        url = gallery.manifest.url
        found = next((one for one in readable(gallery) if one.image_id in asked), None)
        if found is None:
            raise UserError(
                f"{url} has no image that the first queries of {queries.manifest.url} ask for; "
                "name the gallery that belongs to them (data.gallery, or --gallery)"
            )
        if len(found.labels()) < self.labels:
            raise UserError(
                f"{url} has not the labels that {self.name} reads in its samples' JSON; use "
                "composed"
            )

    def check_records(self, records: Sequence[Mapping[str, Any]], url: str) -> None:
        """Raise `UserError` where a query lacks a key that this protocol reads."""
        if not any(record["target_id"] or record["target_ids"] for record in records):
            raise UserError(
                f"the queries of {url} do not say which image they ask for: they can be answered "
                "(launch/evaluate.py --submission, of CIRR), but not measured"
            )
        if self.reads and not all(record.get(self.reads) for record in records):
            raise UserError(
                f"{url} has no {self.reads} in its samples' JSON, which {self.name} reads; use "
                "composed"
            )

    def measure(self, context: EvaluationContext) -> Metrics:
        queries = _queries_of(context)
        self.check_records(queries.records, context.url)
        return self.metrics_of(*self.searched(context))

    def measure_queries(self, queries: Queries, gallery: Gallery, tile: int) -> Metrics:
        """Return every metric of queries that are searched in a gallery, recalls in percent."""
        search = Search(queries, gallery, tile)
        return self.metrics_of(search, search.ranks(search.relevant, self.removed(search)))

    def searched(self, context: EvaluationContext) -> tuple[Search, OwnRanks]:
        """Return the queries and their ranks, computed once."""
        search = Search(_queries_of(context), context.gallery, context.config.tile)
        return context.once(
            self.name, lambda: (search, search.ranks(search.relevant, self.removed(search)))
        )

    def per_query(self, context: EvaluationContext) -> list[PerQuery]:
        return [self.results_of(*self.searched(context), self.name)]

    def results_of(self, search: Search, found: OwnRanks, name: str) -> PerQuery:
        """Return the rank of each query, under a name."""
        numbers = search.queries.numbers
        ranks = found.ranks.masked_fill(found.relevant == 0, NOWHERE)
        return PerQuery(name, "query", numbers, torch.zeros_like(numbers), {"recall": ranks})

    def metrics_of(self, search: Search, found: OwnRanks) -> Metrics:
        """Return every metric of queries by their ranks."""
        counts = {
            "num_queries": len(search.queries.records),
            "num_images": len(search.gallery.images),
            "num_without_target": int((found.relevant == 0).sum()),
        }
        return {
            **self.recalls(search, found),
            f"{self.name}/median_rank": median_rank(found.ranks),
            **{f"{self.name}/{name}": float(count) for name, count in counts.items()},
        }

    def recalls(self, search: Search, found: OwnRanks) -> Metrics:  # noqa: ARG002
        """Return the recalls, each with its chance."""
        return found.recalls(self.cutoffs, f"{self.name}/recall")

    def removed(self, search: Search) -> Choice:
        """Return the images that are not in the galleries of some queries."""
        return search.is_source

    def examples(self, context: EvaluationContext) -> list[RetrievedExample]:
        search = Search(_queries_of(context), context.gallery, context.config.tile)
        parts = [Part(number, "query") for number in search.queries.numbers.tolist()]
        queries, removed = search.queries.embeddings, self.removed(search)
        return top_images(parts, queries, search.gallery, search.relevant, removed, search.tile)

    def table(self, metrics: Mapping[str, float], name: str) -> Table:
        table = new_table(f"{name}: {_sizes(metrics, name)}", _ranks(metrics, name))
        groups = _groups(metrics, name)
        heads = [head for one in groups for head in (one.removesuffix("/recall"), "chance")]
        add_columns(table, "", *heads)
        for k in sorted({k for cutoffs in groups.values() for k in cutoffs}):
            cells = [
                cell
                for group, cutoffs in groups.items()
                for cell in (
                    with_chance(metrics, f"{name}/{group}@{k}") if k in cutoffs else ("", "")
                )
            ]
            table.add_row(f"R@{k}", *cells)
        return table

    def section(self, metrics: Mapping[str, float], name: str) -> Section:
        rows = []
        for group, cutoffs in _groups(metrics, name).items():
            cells: list[Cell | str] = []
            for k in cutoffs:
                cells += [f"R@{k}", measured_cell(metrics, f"{name}/{group}@{k}")]
            rows.append(Row(group.removesuffix("/recall"), cells))
        return Section(f"{_sizes(metrics, name)} · {_ranks(metrics, name)}", [], rows)


def readable(reader: SampleReader) -> Iterator[RawSample]:
    """Yield the samples whose JSON can be used, without their images."""
    for start in range(0, len(reader), CHUNK):
        for sample in reader.load(range(start, min(start + CHUNK, len(reader))), ("json",)):
            try:
                _ = sample.image_id, sample.labels()
            except BadSample:
                continue  # named when it is encoded
            yield sample


def _queries_of(context: EvaluationContext) -> Queries:
    assert context.queries is not None, "composed queries are measured of a composed set"
    return context.queries


def _first_records(queries: SampleReader) -> Iterator[dict[str, Any]]:
    for number in range(min(PROBED, len(queries))):
        try:
            yield record_of(queries[number])
        except BadSample:
            continue


def _sizes(metrics: Mapping[str, float], name: str) -> str:
    queries, images = metrics[f"{name}/num_queries"], metrics[f"{name}/num_images"]
    return f"{queries:,.0f} queries × {images:,.0f} images"


def _ranks(metrics: Mapping[str, float], name: str) -> str:
    words = f"median rank {metrics[f'{name}/median_rank']:,.0f}"
    lost = metrics[f"{name}/num_without_target"]
    return f"{words}; {lost:,.0f} queries without a relevant image" if lost else words


def _groups(metrics: Mapping[str, float], name: str) -> dict[str, list[int]]:
    """Return the recalls that there are, such as `noun/recall`, with their K."""
    groups: dict[str, list[int]] = {}
    for metric in metrics:
        head, _, k = metric.rpartition("@")
        if head.startswith(f"{name}/") and k.isdecimal():
            groups.setdefault(head.removeprefix(f"{name}/"), []).append(int(k))
    return groups
