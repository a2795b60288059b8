"""Choice of an image's own caption among false ones, and of two captions for two images.

Ties count as wrong: a caption must score higher than each false one. Chance is that of a random
order of scores that differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xmodal.methods.scores import Score
from xmodal.precision import full_precision

BLOCK = 32  # pairs scored at a time; of scores that know whole blocks alone, as many squared
HIGHER_IS_BETTER = ("accuracy", "category_mean")
GROUP_CHANCE = {"text": 100 / 4, "image": 100 / 4, "group": 100 / 6}
GROUP_HIGHER_IS_BETTER = tuple(GROUP_CHANCE)


@dataclass(frozen=True)
class Judged:
    """Captions with false ones, by their scores with the image."""

    true: Tensor  # (captions,) float64, score of the caption
    false: Tensor  # (captions,) float64, the highest score of its false captions
    options: Tensor  # (captions,) int64, captions to choose from, its own one included

    @property
    def correct(self) -> Tensor:
        """True where the image's own caption is chosen, (captions,) bool."""
        return self.true > self.false


def score_pairs(score: Score, images: Tensor, texts: Tensor, pairs: Tensor) -> Tensor:
    """Return the exact scores (n,), float64, of pairs (n, 2): rows of images and of texts.

    Raises `ValueError` where one is NaN.
    """
    found = [torch.zeros(0, dtype=torch.float64, device=images.device)]
    for rows in pairs.to(images.device).split(BLOCK):
        places = torch.arange(len(rows), device=images.device)
        with full_precision():
            block = images[rows[:, 0]], texts[rows[:, 1]]
            found.append(score.chosen(*block, places, places))
    scores = torch.cat(found)
    if scores.isnan().any():
        raise ValueError(f"a score is NaN of pair {int(scores.isnan().nonzero()[0])}")
    return scores


def judge(scores: Tensor, options: Sequence[int]) -> Judged:
    """Judge scores (n,) of captions, each followed by its false ones: `options` captions in all."""
    counts = torch.tensor(options)
    owners = torch.repeat_interleave(torch.arange(len(counts)), counts)
    first = counts.cumsum(0) - counts
    scores = scores.cpu()
    rivals = scores.index_fill(0, first, -torch.inf)
    false = scores.new_full((len(counts),), -torch.inf).scatter_reduce(0, owners, rivals, "amax")
    return Judged(scores[first], false, counts)


def choice_metrics(
    judged: Judged, categories: Sequence[str | None], protocol: str
) -> dict[str, float]:
    """Name and number of every metric of the choice of a caption, in percent.

    `P/accuracy`, the share of captions that are chosen; `P/CATEGORY/accuracy`, the same of a
    category; `P/category_mean`, the mean over categories (without any, the accuracy); each with
    its chance. Counts are `P/num_captions` and `P/CATEGORY/num_captions`.
    """
    metrics = _accuracy(judged.correct, judged.options, protocol)
    rows = rows_by_category(categories)
    of_each = {
        f"{protocol}/{name}": _accuracy(
            judged.correct[own], judged.options[own], f"{protocol}/{name}"
        )
        for name, own in rows.items()
    } or {protocol: metrics}
    for ending in ("", "_chance"):
        values = [found[f"{prefix}/accuracy{ending}"] for prefix, found in of_each.items()]
        metrics[f"{protocol}/category_mean{ending}"] = sum(values) / len(values)
    return metrics | {name: value for found in of_each.values() for name, value in found.items()}


def group_scores(judged: Judged, rows: Tensor) -> dict[str, Tensor]:
    """Return whether groups of two images and two captions are right, (groups,) bool each.

    `text`: each image's own caption scores higher than the other one; `image`: each caption's own
    image does; `group`: both (Thrush et al. 2022, arXiv 2204.03162, section 4).

    Args:
        judged: of each image its caption and, as the false one, that of the other image.
        rows: (groups, 2) the two images of each group.
    """
    true, false = judged.true[rows], judged.false[rows]
    # The false caption of an image is the other image's own.
    text, image = (true > false).all(1), (true > false.flip(1)).all(1)
    return {"text": text, "image": image, "group": text & image}


def group_metrics(
    scores: dict[str, Tensor], categories: Sequence[str | None], protocol: str
) -> dict[str, float]:
    """Name and number of every metric of groups, in percent: `P/text`, `P/image`, `P/group`, and of
    each category `P/CATEGORY/…`, with their chances; `P/num_groups` and `P/CATEGORY/num_groups`.
    """
    everything = torch.arange(len(categories))
    named = {f"{protocol}/{name}": own for name, own in rows_by_category(categories).items()}
    metrics = {}
    for prefix, rows in {protocol: everything, **named}.items():
        for name, values in scores.items():
            metrics[f"{prefix}/{name}"] = _percent(values[rows])
            metrics[f"{prefix}/{name}_chance"] = GROUP_CHANCE[name]
        metrics[f"{prefix}/num_groups"] = float(len(rows))
    return metrics


def rows_by_category(categories: Sequence[str | None]) -> dict[str, Tensor]:
    """Return the rows of each category, in alphabetical order."""
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(categories):
        if name is not None:
            rows.setdefault(name, []).append(row)
    return {name: torch.tensor(rows[name]) for name in sorted(rows)}


def _accuracy(correct: Tensor, options: Tensor, prefix: str) -> dict[str, float]:
    return {
        f"{prefix}/accuracy": _percent(correct),
        f"{prefix}/accuracy_chance": _percent(1 / options.double()),
        f"{prefix}/num_captions": float(len(correct)),
    }


def _percent(values: Tensor) -> float:
    return 100 * float(values.double().mean())
