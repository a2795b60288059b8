"""Recall and median rank, beside those of a random order."""

import torch
from torch import Tensor

from xmodal.evaluation.metrics.ranking import Ranks

DIRECTIONS = ("image_to_text", "text_to_image")
CUTOFFS = (1, 5, 10)
HIGHER_IS_BETTER = (
    *(f"{direction}/recall@{k}" for direction in DIRECTIONS for k in CUTOFFS),
    "rsum",
)


def recall_metrics(ranks: Ranks, relevant_pairs: Tensor, protocol: str) -> dict[str, float]:
    """Name and number of every retrieval metric, recalls in percent.

    `P/image_to_text/recall@K` and `P/text_to_image/recall@K` for K of 1, 5 and 10, each with its
    `recall@K_chance`; `P/…/median_rank` from 1; `P/rsum`, the sum of the six recalls, and
    `P/rsum_chance`; `P/num_images` and `P/num_texts`, the sizes of the galleries. P is the
    protocol.

    Args:
        ranks: of every image and every text.
        relevant_pairs: (num_pairs, 2) the (image, text) relevant to each other, as for the ranks.
        protocol: name of the protocol, such as `coco-1k-5fold`.
    """
    images, texts = relevant_pairs.unique(dim=0).unbind(1)
    num_images, num_texts = len(ranks.image_to_text), len(ranks.text_to_image)
    directions = {
        "image_to_text": _direction(ranks.image_to_text, images.bincount(), num_texts),
        "text_to_image": _direction(ranks.text_to_image, texts.bincount(), num_images),
    }
    metrics = {
        f"{protocol}/{direction}/{name}": value
        for direction, values in directions.items()
        for name, value in values.items()
    }
    for ending in ("", "_chance"):
        metrics[f"{protocol}/rsum{ending}"] = sum(
            values[f"recall@{k}{ending}"] for values in directions.values() for k in CUTOFFS
        )
    metrics[f"{protocol}/num_images"] = float(num_images)
    metrics[f"{protocol}/num_texts"] = float(num_texts)
    return metrics


def chance_recall(num_relevant: Tensor, gallery_size: int | Tensor, k: int) -> Tensor:
    """Probability (num_queries,) that a random order has a relevant item among its first k.

    With P relevant items among N it is 1 − C(N − P, k) / C(N, k).

    Args:
        num_relevant: (num_queries,) P of each query.
        gallery_size: N, or that of each query, (num_queries,).
        k: the cutoff.
    """
    sizes = torch.as_tensor(gallery_size).cpu().double().expand(len(num_relevant))
    left = sizes[:, None] - torch.arange(min(k, int(sizes.max())))
    wrong_draws = -num_relevant.cpu().double()[:, None] / left
    # A gallery of less than k items is drawn whole.
    wrong_draws = wrong_draws.clamp(min=-1).masked_fill(left < 1, 0)
    # Logarithms, because 1 − (1 − p) would lose the digits of a small p.
    return -wrong_draws.log1p().sum(1).expm1()


def _direction(ranks: Tensor, num_relevant: Tensor, gallery_size: int) -> dict[str, float]:
    metrics = {}
    for k in CUTOFFS:
        metrics[f"recall@{k}"] = 100 * float((ranks < k).double().mean())
        metrics[f"recall@{k}_chance"] = 100 * float(
            chance_recall(num_relevant, gallery_size, k).mean()
        )
    metrics["median_rank"] = median_rank(ranks)
    return metrics


def median_rank(ranks: Tensor) -> float:
    """Return the median of 0-based ranks, counted from 1."""
    # Rounded down where it falls between two ranks, as in the VSE++ code that papers follow.
    return float(_median(ranks).floor() + 1)


def _median(values: Tensor) -> Tensor:
    ordered = values.sort().values.double()
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
