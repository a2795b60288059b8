"""`fashion-iq`: composed queries of Fashion IQ, each searched among images of its category."""

from typing import ClassVar, Literal

import torch

from xmodal.data.reader import SampleReader
from xmodal.errors import UserError
from xmodal.evaluation.context import EvaluationContext, EvaluationData
from xmodal.evaluation.metrics.own_ranks import OwnRanks
from xmodal.evaluation.metrics.tiles import Choice
from xmodal.evaluation.per_query import PerQuery
from xmodal.evaluation.protocols.composed import Composed, readable
from xmodal.evaluation.protocols.config import ProtocolConfig
from xmodal.evaluation.protocols.protocol import Metrics
from xmodal.evaluation.protocols.search import Search


class FashionIqConfig(ProtocolConfig):
    """Recall of composed queries of Fashion IQ, the mean over categories."""

    kind: Literal["fashion-iq"] = "fashion-iq"
    builds: ClassVar[str] = "FashionIq"


class FashionIq(Composed):
    """Recall in each category's images, and its mean over categories."""

    name = "fashion-iq"
    cutoffs = (10, 50)
    higher_is_better = tuple(f"recall@{k}" for k in cutoffs)
    reads = "category"
    labels = 1

    def check(self, data: EvaluationData) -> None:
        super().check(data)
        assert data.gallery is not None
        _check_categories(data.reader, data.gallery)

    def removed(self, search: Search) -> Choice:
        of_queries = _categories(search)
        numbers = {name: number for number, name in enumerate(dict.fromkeys(of_queries))}
        labels, device = search.gallery.labels, search.gallery.images.device
        of_images = torch.tensor(
            [[name in of_image for of_image in labels] for name in numbers], device=device
        )
        of_category = torch.tensor([numbers[name] for name in of_queries], device=device)
        return lambda rows: search.is_source(rows) | ~of_images[of_category[rows]]

    def recalls(self, search: Search, found: OwnRanks) -> Metrics:
        of_queries = _categories(search)
        metrics: Metrics = {}
        categories = sorted(set(of_queries))
        for category in categories:
            rows = [row for row, one in enumerate(of_queries) if one == category]
            metrics |= found.of(rows).recalls(self.cutoffs, f"{self.name}/{category}/recall")
        for name in (f"recall@{k}{ending}" for k in self.cutoffs for ending in ("", "_chance")):
            of_categories = [metrics[f"{self.name}/{category}/{name}"] for category in categories]
            metrics[f"{self.name}/{name}"] = sum(of_categories) / len(of_categories)
        return metrics

    def per_query(self, context: EvaluationContext) -> list[PerQuery]:
        search, found = self.searched(context)
        whole, of_queries = self.results_of(search, found, self.name), _categories(search)
        rows = {
            category: torch.tensor([row for row, one in enumerate(of_queries) if one == category])
            for category in sorted(set(of_queries))
        }
        return [whole.of(own, f"{self.name}/{category}") for category, own in rows.items()]


def _categories(search: Search) -> list[str]:
    return [record["category"] for record in search.queries.records]


def _check_categories(queries: SampleReader, gallery: SampleReader) -> None:
    missing = {one.record.get("category") for one in readable(queries)}
    missing.discard(None)  # `check_records` reports it
    for image in readable(gallery):
        missing.difference_update(image.labels())
        if not missing:
            return
    raise UserError(
        f"{gallery.manifest.url} has no image with the label {min(missing, key=str)}, a category "
        f"of the queries of {queries.manifest.url}, and fashion-iq searches each in its own; name "
        "the galleries of all categories (data.gallery, or --gallery)"
    )
