"""Retrieval of items of the same class: mean average precision, and precision by recall.

Average precision is that of the PKU group's evaluation, AP = (1/R) Σⱼ relⱼ · hitsⱼ / j over the
first k results, R the relevant ones among them (Peng et al. 2018, arXiv 1704.02116). Ties count
against the model: of items with one score, the irrelevant ones come first. So nothing depends on
the order of the gallery.
"""

from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from xmodal.evaluation.gallery import Gallery
from xmodal.evaluation.metrics.classes import Classes
from xmodal.evaluation.metrics.recall import DIRECTIONS, chance_recall
from xmodal.evaluation.metrics.similarity import Similarity, score_chosen
from xmodal.evaluation.metrics.tiles import Choice, judge_queries
from xmodal.methods.scores import as_score

CUTOFF = 50
TENTHS = range(11)  # the recalls at which precision is read
CURVE = tuple(f"precision@recall_{tenth / 10:.1f}" for tenth in TENTHS)
HIGHER_IS_BETTER = (
    "map",
    *(f"{d}/{name}" for d in DIRECTIONS for name in ("map", f"map@{CUTOFF}", *CURVE)),
)


@dataclass
class Precisions:
    """Precision of each query's order, from 0 to 1; 0 where nothing is relevant."""

    relevant: Tensor  # (queries,) float64, how many items are relevant
    average: Tensor  # (queries,) float64, average precision over all items
    average_at: Tensor  # (queries,) float64, over the first 50
    curve: Tensor  # (queries, 11) float64, interpolated precision at recall 0, 0.1 … 1


def class_precisions(
    gallery: Gallery, classes: Classes, similarity: Similarity, tile: int
) -> dict[str, Precisions]:
    """Judge the order in which images put texts and texts images, by direction."""
    images, texts, owners = gallery.images, gallery.texts, gallery.owners
    return {
        "image_to_text": precisions(
            images, texts, similarity, lambda rows: classes.shared_by(rows)[:, owners], tile
        ),
        "text_to_image": precisions(
            texts, images, similarity.swapped(), lambda rows: classes.shared_by(owners[rows]), tile
        ),
    }


def class_metrics(
    found: Mapping[str, Precisions], gallery: Gallery, classes: Classes, protocol: str
) -> dict[str, float]:
    """Name and number of every metric of retrieval by class, in percent.

    An item is relevant that shares a class with the query. Of both directions `P/…/map` and
    `P/…/map@50`, each with its chance, precision at recall 0.0 to 1.0, and how many queries were
    measured and how many, for which nothing is relevant, skipped; `P/map` is the directions' mean.
    """
    images, texts = gallery.images, gallery.texts
    sizes = {"image_to_text": len(texts), "text_to_image": len(images)}
    directions = {name: _direction(found[name], sizes[name]) for name in DIRECTIONS}
    metrics = {
        f"{protocol}/{name}": sum(values[name] for values in directions.values()) / 2
        for name in ("map", "map_chance")
    }
    for direction, values in directions.items():
        metrics |= {f"{protocol}/{direction}/{name}": value for name, value in values.items()}
    counts = {"images": len(images), "texts": len(texts), "classes": len(classes.names)}
    return metrics | {f"{protocol}/num_{name}": float(count) for name, count in counts.items()}


def standardised(gallery: Gallery) -> Gallery:
    """Return embeddings of length 1, standardised as in the published evaluation of CCL.

    Every dimension of each side, (n, dim), has mean 0 and deviation 1 over the set.
    """
    return replace(
        gallery, images=_standardised(gallery.images), texts=_standardised(gallery.texts)
    )


def precisions(
    queries: Tensor, gallery: Tensor, similarity: Similarity, relevance: Choice, tile: int
) -> Precisions:
    """Judge the order in which each query puts a gallery, as `judge_queries` does it.

    Raises `ValueError` where a score is NaN.
    """

    def judge_rows(rows: Tensor, scores: Tensor) -> Tensor:
        order, ends, broken = _order(scores, queries[rows], gallery, similarity)
        judged = judge(relevance(rows).gather(1, order), ends)
        values = torch.cat([column.view(len(order), -1) for column in astuple(judged)], 1)
        return values.masked_fill(broken[:, None], torch.nan)

    width = 3 + len(TENTHS)
    values = judge_queries(queries, gallery, as_score(similarity.score), tile, width, judge_rows)
    relevant, average, average_at = values[:, :3].unbind(1)
    return Precisions(relevant, average, average_at, values[:, 3:])


def judge(relevant: Tensor, ends: Tensor) -> Precisions:
    """Judge orders of items.

    Args:
        relevant: (queries, items) bool, whether what an order has in a place is relevant.
        ends: (queries, items) bool, whether the place is the last one of its score.
    """
    hits = relevant.cumsum(1)
    items = torch.arange(1, relevant.shape[1] + 1, device=hits.device)
    # All irrelevant items of the same score come before a relevant one.
    irrelevant = (items - hits).masked_fill(~ends, len(items)).flip(1).cummin(1).values.flip(1)
    places = hits + irrelevant
    precision = (hits.double() / places).masked_fill(~relevant, 0)
    inside = relevant & (places <= CUTOFF)
    total = hits[:, -1:]
    # At recall r the best precision at r or beyond: from the first place with so many hits on.
    best = precision.flip(1).cummax(1).values.flip(1)
    tenths = torch.tensor(TENTHS, device=hits.device)
    needed = ((tenths * total + 9) // 10).clamp(min=1)
    at = torch.searchsorted(hits, needed).clamp(max=len(items) - 1)
    return Precisions(
        total[:, 0].double(),
        precision.sum(1) / total[:, 0].clamp(min=1),
        (precision * inside).sum(1) / inside.sum(1).clamp(min=1),
        best.gather(1, at),
    )


def chance_average_precision(relevant: Tensor, gallery_size: int, k: int) -> Tensor:
    """Mean (queries,) of the average precision over the first k of all orders of a gallery.

    Of m relevant items anywhere among k the mean is a(m) = (H − 1 + m (1 − H / k)) / (k − 1), where
    H = 1 + 1/2 + … + 1/k. That is linear in m, except that a(0) is 0; how many of R are among the
    first k of N is hypergeometric, of mean k R / N.

    Args:
        relevant: (queries,) R of each query.
        gallery_size: N.
        k: the cutoff; N or more: all results.
    """
    k = min(k, gallery_size)
    relevant = relevant.cpu().double()
    if k == 1:
        return relevant / gallery_size
    harmonic = float((1 / torch.arange(1, k + 1, dtype=torch.float64)).sum())
    some = (relevant > 0).double()
    if k < gallery_size:
        some = chance_recall(relevant, gallery_size, k)
    mean = relevant * k / gallery_size
    return ((harmonic - 1) * some + (1 - harmonic / k) * mean) / (k - 1)


def _standardised(embeddings: Tensor) -> Tensor:
    centred = embeddings.double() - embeddings.double().mean(0)
    deviation = centred.square().mean(0).sqrt()
    # A dimension that is constant but for rounding has no information.
    constant = deviation <= 1e-6 * embeddings.abs().amax(0)
    standard = (centred / deviation).masked_fill(constant, 0)
    return F.normalize(standard, dim=1).to(embeddings.dtype)


def _direction(found: Precisions, gallery_size: int) -> dict[str, float]:
    judged = found.relevant > 0
    relevant = found.relevant[judged]
    metrics = {}
    for name, values, k in (
        ("map", found.average, gallery_size),
        (f"map@{CUTOFF}", found.average_at, CUTOFF),
    ):
        metrics[name] = 100 * float(values[judged].mean())
        chance = chance_average_precision(relevant, gallery_size, k)
        metrics[f"{name}_chance"] = 100 * float(chance.mean())
    curve = 100 * found.curve[judged].mean(0)
    metrics |= dict(zip(CURVE, curve.tolist(), strict=True))
    metrics["queries"] = float(judged.sum())
    metrics["queries_skipped"] = float((~judged).sum())
    return metrics


def _order(
    scores: Tensor, queries: Tensor, gallery: Tensor, similarity: Similarity
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the items by place and whether a place is its score's last, both (queries, items),
    and for which queries a score of the shortlist is NaN, (queries,).
    """
    values, order = scores.sort(dim=1, descending=True, stable=True)
    ends = _last_of_equal(values)
    broken = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    if similarity.rescore is not None:
        head = order[:, : similarity.shortlist]
        again = score_chosen(similarity.rescore, queries, gallery, head)
        values, places = again.sort(dim=1, descending=True, stable=True)
        order[:, : similarity.shortlist] = head.gather(1, places)
        ends[:, : similarity.shortlist] = _last_of_equal(values)
        broken = values.isnan().any(1)
    return order, ends, broken


def _last_of_equal(values: Tensor) -> Tensor:
    ends = torch.ones_like(values, dtype=torch.bool)
    ends[:, :-1] = values[:, 1:] != values[:, :-1]
    return ends
