"""`winoground`: two images and two captions of the same words, which belong together?

Thrush et al. 2022, arXiv 2204.03162.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch

from xmodal.data.evaluation import Contrast
from xmodal.errors import UserError
from xmodal.evaluation.metrics.contrasts import (
    GROUP_HIGHER_IS_BETTER,
    Judged,
    group_metrics,
    group_scores,
)
from xmodal.evaluation.per_query import PerQuery
from xmodal.evaluation.protocols.config import ProtocolConfig
from xmodal.evaluation.protocols.false_captions import FalseCaptions
from xmodal.evaluation.protocols.protocol import Metrics


class WinogroundConfig(ProtocolConfig):
    """Text, image and group score of pairs of images and captions."""

    kind: Literal["winoground"] = "winoground"
    builds: ClassVar[str] = "Winoground"


class Winoground(FalseCaptions):
    """Share of groups right by captions, by images and by both; groups that lack one are skipped.

    A group is two samples, each an image whose false caption is the other one's caption.
    """

    name = "winoground"
    higher_is_better = GROUP_HIGHER_IS_BETTER
    metrics = GROUP_HIGHER_IS_BETTER
    counts = "num_groups"

    @property
    def headline(self) -> str:
        return "group"

    def check_contrasts(self, contrasts: list[Contrast], url: str) -> None:
        pairs, _ = groups_of(contrasts)
        if not pairs or not all(_is_group([contrasts[row] for row in one]) for one in pairs):
            raise UserError(
                f"winoground is measured on groups of two images, the caption of one being the "
                f"false one of the other, and {url} has others; use false-captions"
            )

    def metrics_of(self, judged: Judged, contrasts: list[Contrast], name: str) -> Metrics:
        pairs, skipped = groups_of(contrasts)
        scores = group_scores(judged, torch.tensor(pairs))
        categories = [contrasts[first].category for first, _ in pairs]
        return group_metrics(scores, categories, name) | {f"{name}/groups_skipped": float(skipped)}

    def results_of(self, judged: Judged, contrasts: list[Contrast], name: str) -> list[PerQuery]:
        pairs, _ = groups_of(contrasts)
        first = torch.tensor([contrasts[row].number for row, _ in pairs])
        scores = group_scores(judged, torch.tensor(pairs))
        values = {metric: 100 * right.double() for metric, right in scores.items()}
        return [PerQuery(name, "image", first, torch.zeros_like(first), values=values)]

    def sizes(self, metrics: Mapping[str, float], name: str) -> str:
        skipped = metrics[f"{name}/groups_skipped"]
        more = f", {skipped:,.0f} of one image skipped" if skipped else ""
        return super().sizes(metrics, name) + more


def groups_of(contrasts: list[Contrast]) -> tuple[list[tuple[int, ...]], int]:
    """Return the rows of each group, and how many groups have a single one."""
    rows: dict[str | None, list[int]] = {}
    for row, one in enumerate(contrasts):
        rows.setdefault(one.group, []).append(row)
    whole = [tuple(found) for found in rows.values() if len(found) > 1]
    return whole, len(rows) - len(whole)


def _is_group(samples: list[Contrast]) -> bool:
    """Return whether samples are two, each with the other's caption as its false one."""
    captions = [one.caption for one in samples]
    return len(samples) == 2 and [one.false for one in samples] == [[c] for c in reversed(captions)]
