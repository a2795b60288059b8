"""`all-captions`: images find captions and captions images, every caption of the set counted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from rich.table import Table
from torch import Tensor

from xmodal.activity import activity
from xmodal.evaluation.context import EvaluationContext
from xmodal.evaluation.gallery import Gallery, Relevance
from xmodal.evaluation.metrics.ranking import Ranks
from xmodal.evaluation.metrics.recall import CUTOFFS, DIRECTIONS, HIGHER_IS_BETTER, recall_metrics
from xmodal.evaluation.metrics.similarity import BY_DISTANCE, rank_all
from xmodal.evaluation.per_query import PerQuery
from xmodal.evaluation.protocols.config import ProtocolConfig
from xmodal.evaluation.protocols.ground_truth import ground_truth
from xmodal.evaluation.protocols.protocol import Metrics, Protocol, Shown
from xmodal.evaluation.report.section import Row, Section, measured_cell
from xmodal.evaluation.report.tables import add_columns, new_table, percent, with_chance
from xmodal.evaluation.retrieved import RetrievedExample, top_hits

LABELS = {"image_to_text": "image → text", "text_to_image": "text → image"}


class AllCaptionsConfig(ProtocolConfig):
    """Recall of captions and images, a caption being relevant to its own image."""

    kind: Literal["all-captions"] = "all-captions"
    builds: ClassVar[str] = "AllCaptions"


@dataclass
class Ranking:
    """Captions ranked by each variant of a method's score."""

    gallery: Gallery
    relevant_pairs: Tensor  # (pairs, 2) int64, rows of images and texts
    ranks: dict[str, Ranks]  # by variant

    def metrics(self, protocol: str) -> Metrics:
        """Return the recalls, their chances, the median ranks and the sizes of the galleries."""
        metrics: Metrics = {}
        for variant, ranks in self.ranks.items():
            metrics |= recall_metrics(ranks, self.relevant_pairs, protocol + variant)
        return metrics

    def per_query(self, protocol: str, part: str = "") -> list[PerQuery]:
        """Return the ranks of each image and each caption, under the name of each variant and of a
        `part` of the protocol.
        """
        numbers = self.gallery.numbers
        of_captions = numbers[self.gallery.owners], self.gallery.caption_numbers()
        found = []
        for variant, ranks in self.ranks.items():
            images, texts = (f"{protocol}{variant}{part}/{direction}" for direction in DIRECTIONS)
            none = torch.zeros_like(numbers)
            found += [
                PerQuery(images, "image", numbers, none, {"recall": ranks.image_to_text}),
                PerQuery(texts, "caption", *of_captions, {"recall": ranks.text_to_image}),
            ]
        return found


class AllCaptions(Protocol):
    """Recall at 1, 5 and 10 in both directions, median ranks, and the sum of the recalls."""

    name = "all-captions"
    higher_is_better = HIGHER_IS_BETTER
    lower_is_better = tuple(f"{direction}/median_rank" for direction in DIRECTIONS)
    logged = tuple(f"{direction}/recall@1" for direction in DIRECTIONS)
    variants = (BY_DISTANCE,)
    shows: ClassVar[Shown | None] = "captions"

    @property
    def headline(self) -> str:
        return "rsum"

    def measure(self, context: EvaluationContext) -> Metrics:
        return self.ranking(context).metrics(self.name)

    def ranking(self, context: EvaluationContext) -> Ranking:
        """Return the result of `rank`, computed once."""
        return context.once(self.name, lambda: self.rank(context))

    def rank(self, context: EvaluationContext) -> Ranking:
        """Rank captions: all of the set, each relevant to its own image."""
        return rank_captions(context, context.gallery, None)

    def examples(self, context: EvaluationContext) -> list[RetrievedExample]:
        with activity(f"{self.name}, {context.sizes}"):
            found = self.ranking(context)
        gallery = found.gallery
        similarity = context.similarities(gallery.images, gallery.texts)[""]
        tile = context.config.tile
        return top_hits(gallery, found.relevant_pairs, found.ranks[""], similarity, tile)

    def per_query(self, context: EvaluationContext) -> list[PerQuery]:
        return self.ranking(context).per_query(self.name)

    def table(self, metrics: Mapping[str, float], name: str) -> Table:
        table = new_table(f"{name}: {gallery_sizes(metrics, name)}", f"rsum {rsum(metrics, name)}")
        heads = [column for k in CUTOFFS for column in (f"R@{k}", "chance")]
        add_columns(table, "", *heads, "median")
        for direction, label in LABELS.items():
            prefix = f"{name}/{direction}"
            cells = with_chance(metrics, *(f"{prefix}/recall@{k}" for k in CUTOFFS))
            table.add_row(label, *cells, f"{metrics[f'{prefix}/median_rank']:,.0f}")
        return table

    def section(self, metrics: Mapping[str, float], name: str) -> Section:
        sizes = f"{gallery_sizes(metrics, name)} · rsum {rsum(metrics, name)}"
        rows = []
        for direction, label in LABELS.items():
            prefix = f"{name}/{direction}"
            recalls = [measured_cell(metrics, f"{prefix}/recall@{k}") for k in CUTOFFS]
            rows.append(Row(label, [*recalls, f"{metrics[f'{prefix}/median_rank']:,.0f}"]))
        return Section(sizes, ["", *(f"R@{k}, %" for k in CUTOFFS), "median rank"], rows)


def rank_captions(
    context: EvaluationContext, gallery: Gallery, relevance: Relevance | None
) -> Ranking:
    """Rank the captions of a gallery by each variant of a method's score."""
    pairs = ground_truth(gallery, relevance)
    images, texts = gallery.images, gallery.texts
    ranks = {
        variant: rank_all(images, texts, pairs, similarity, context.config.tile)
        for variant, similarity in context.similarities(images, texts).items()
    }
    return Ranking(gallery, pairs, ranks)


def gallery_sizes(metrics: Mapping[str, float], name: str) -> str:
    """Return the numbers of images and texts that were ranked, in words."""
    images, texts = metrics[f"{name}/num_images"], metrics[f"{name}/num_texts"]
    return f"{images:,.0f} images × {texts:,.0f} texts"


def rsum(metrics: Mapping[str, float], name: str) -> str:
    """Return the sum of the six recalls, in words."""
    chance = percent(metrics[f"{name}/rsum_chance"])
    return f"{metrics[f'{name}/rsum']:.1f} of 600 (chance {chance})"
