"""Visual similarity: retrieval of images by an image.

Every image is a query and searched among all others; those of its own image id are removed. By
label an image is relevant that shares a class with the query; graded, it is worth the share of
labels that both have. Ties count against the model: of images with one score the worse ones come
first.
"""

import warnings

import torch
from torch import Tensor

from xmodal.activity import activity
from xmodal.distributed.collectives import gather_objects, rank
from xmodal.evaluation.metrics.classes import Classes
from xmodal.evaluation.metrics.recall import chance_recall
from xmodal.evaluation.metrics.tiles import Choice, Judge, judge_queries
from xmodal.methods.scores import dot_product

CUTOFFS = (1, 2, 4, 8)
NEIGHBOURS = 20  # at most, that vote for the class of an image,
TEMPERATURE = 0.07  # with weights exp(cosine / temperature)
HIGHER_IS_BETTER = ("map@r", *(f"recall@{k}" for k in CUTOFFS), "knn_accuracy", "nmi")
GRADED_CUTOFF = 10
GRADED_HIGHER_IS_BETTER = ("ndcg", f"ndcg@{GRADED_CUTOFF}")
WITH_TEXT = "-with-text"  # ends a protocol's name where images are compared with their texts


def visual_metrics(
    images: Tensor, image_ids: Tensor, classes: Classes, protocol: str, tile: int
) -> dict[str, float]:
    """Name and number of every metric of visual similarity by label, in percent.

    - `P/recall@K`, the share of images with one of their class among the first K;
    - `P/map@r`, mean of (1/R) Σᵢ≤R precision at i · relᵢ, R images being of the query's class
      (Musgrave et al. 2020, arXiv 2003.08505);
    - `P/knn_accuracy`, the share of images of the class that the `P/num_neighbours` nearest vote
      for, each with weight exp(cosine / 0.07) (Wu et al. 2018, arXiv 1805.01978). There are 20
      neighbours, or as many as an image of the median class has in its class, if these are fewer;
    - `P/nmi`, normalised mutual information of classes and as many clusters by k-means.

    All but the vote have their `_chance` beside them. Images of which no other one is of their
    class are skipped as queries and counted: `P/queries`, `P/queries_skipped`.

    Args:
        images: (images, dim) unit vectors.
        image_ids: (images,) int64, equal for equal images.
        classes: which image is of which classes.
        protocol: P.
        tile: about the largest side of a tile of scores.
    """
    voters = num_neighbours(image_ids, classes)
    judge = _judge_by_label(image_ids, classes, voters)
    values = judge_queries(images, images, dot_product, tile, 5, judge)
    relevant, searched, ranks, at_r, votes = values[values[:, 0] > 0].unbind(1)
    metrics = {"map@r": at_r, "map@r_chance": chance_precision_at_r(relevant, searched)}
    for k in CUTOFFS:
        metrics[f"recall@{k}"] = (ranks < k).double()
        metrics[f"recall@{k}_chance"] = chance_recall(relevant, searched, k)
    metrics["knn_accuracy"] = votes
    percents = {name: 100 * float(column.mean()) for name, column in metrics.items()}
    # On one rank for all.
    found = gather_objects([nmi(images, classes)] if rank() == 0 else [])[0]
    percents["nmi"], percents["nmi_chance"] = (100 * value for value in found)
    named = {f"{protocol}/{name}": value for name, value in percents.items()}
    named[f"{protocol}/num_neighbours"] = float(voters)
    return named | _counts(values, classes, protocol)


def _judge_by_label(image_ids: Tensor, classes: Classes, voters: int) -> Judge:
    """Return the judge of images as queries, with a row a query: relevant images, searched images,
    rank of the first relevant one, precision at R, and whether the vote of neighbours is right.
    """
    own = same_image(image_ids)

    def judge(rows: Tensor, scores: Tensor) -> Tensor:
        gone = own(rows)
        relevant = classes.shared_by(rows) & ~gone
        scores = scores.masked_fill(gone, -torch.inf)
        order = worst_first(scores, relevant.byte())
        found = relevant.gather(1, order)
        near = order[:, :voters]
        columns = (
            relevant.sum(1),
            (~gone).sum(1),
            found.byte().argmax(1),
            precision_at_r(found),
            votes_right(scores.gather(1, near), classes.of_images[near], classes.of_images[rows]),
        )
        return torch.stack([column.double() for column in columns], 1)

    return judge


def graded_metrics(
    images: Tensor, image_ids: Tensor, classes: Classes, protocol: str, tile: int
) -> dict[str, float]:
    """Name and number of every metric of visual similarity by shared labels, in percent.

    `P/ndcg` = (1/Z) Σᵢ gᵢ / log₂(i + 1) over all places i, Z what the best order reaches, and
    `P/ndcg@10` over the first ten; the gain g of an image is the number of labels that it shares
    with the query over the number of labels of either. Both have their `_chance` beside them.
    Arguments and counts are those of `visual_metrics`.
    """
    own = same_image(image_ids)
    cutoffs = (len(images), GRADED_CUTOFF)

    def judge(rows: Tensor, scores: Tensor) -> Tensor:
        gone = own(rows)
        searched = (~gone).sum(1, keepdim=True)
        gains = jaccard(classes, rows).masked_fill(gone, 0)
        total = gains.sum(1, keepdim=True)
        found = gains.gather(1, worst_first(scores.masked_fill(gone, -torch.inf), gains))
        best = gains.sort(1, descending=True).values
        # In a random order each place has the mean gain of what is searched.
        places = torch.arange(len(images), device=gains.device)
        random = (total / searched).where(places < searched, 0)
        columns = [total[:, 0]]
        for k in cutoffs:
            ideal = discounted(best, k).clamp(min=1e-12)
            columns += [discounted(found, k) / ideal, discounted(random, k) / ideal]
        return torch.stack(columns, 1)

    values = judge_queries(images, images, dot_product, tile, 1 + 2 * len(cutoffs), judge)
    means = 100 * values[values[:, 0] > 0, 1:].mean(0)
    names = [
        f"{protocol}/{name}{ending}"
        for name in GRADED_HIGHER_IS_BETTER
        for ending in ("", "_chance")
    ]
    return dict(zip(names, means.tolist(), strict=True)) | _counts(values, classes, protocol)


def worst_first(scores: Tensor, worth: Tensor) -> Tensor:
    """Return the order (queries, items) of falling scores in which equals come by rising worth."""
    by_worth = worth.argsort(dim=1, stable=True)
    return by_worth.gather(
        1, scores.gather(1, by_worth).argsort(dim=1, descending=True, stable=True)
    )


def precision_at_r(found: Tensor) -> Tensor:
    """Return (1/R) Σᵢ≤R precision at i · relᵢ, (queries,) float64, 0 where nothing is relevant.

    `found`: (queries, places) bool, whether an order has a relevant item in a place; R of them.
    """
    places = torch.arange(1, found.shape[1] + 1, device=found.device)
    total = found.sum(1, keepdim=True)
    inside = found & (places <= total)
    return (found.cumsum(1) / places.double() * inside).sum(1) / total[:, 0].clamp(min=1)


def chance_precision_at_r(relevant: Tensor, searched: Tensor) -> Tensor:
    """Mean (queries,) of `precision_at_r` over all orders of `searched` items, R of them relevant.

    A place is relevant with probability p = R / N, and one before it then with
    q = (R − 1) / (N − 1), so that the mean is (p / R) Σᵢ≤R (1 + (i − 1) q) / i
    = (p / R) (H (1 − q) + R q), H = 1 + 1/2 + … + 1/R.
    """
    relevant, searched = relevant.double(), searched.double()
    harmonic = torch.digamma(relevant + 1) - torch.digamma(torch.ones_like(relevant))
    p, q = relevant / searched, (relevant - 1) / (searched - 1).clamp(min=1)
    return p / relevant * (harmonic * (1 - q) + relevant * q)


def num_neighbours(image_ids: Tensor, classes: Classes) -> int:
    """Return how many neighbours vote: 20, or as many as an image of the median class has beside
    it, if these are fewer.

    The median is that of the classes of two images or more, the lower one of two; images of one id
    count once.
    """
    rows, columns = classes.of_images.nonzero().unbind(1)
    members = torch.stack([image_ids[rows], columns]).unique(dim=1)[1]
    sizes = members.bincount()
    others = sizes[sizes > 1] - 1
    return min(NEIGHBOURS, int(others.median())) if len(others) else 1


def votes_right(cosines: Tensor, of_neighbours: Tensor, of_queries: Tensor) -> Tensor:
    """Return whether one of a query's own classes has more votes than each other one, (queries,).

    Args:
        cosines: (queries, k) of the nearest items, by which they vote; -inf: not at all.
        of_neighbours: (queries, k, classes) bool.
        of_queries: (queries, classes) bool.
    """
    weights = (cosines.double() / TEMPERATURE).exp()
    # Whole numbers: votes that are equal stay so in whatever order they are added up.
    weights = (weights / weights.amax(1, keepdim=True).clamp(min=1e-300) * 2**40).round()
    votes = torch.einsum("nk,nkc->nc", weights, of_neighbours.double())
    own, others = (votes.masked_fill(~mask, 0).amax(1) for mask in (of_queries, ~of_queries))
    return own > others


def nmi(images: Tensor, classes: Classes) -> tuple[float, float]:
    """Return the normalised mutual information of classes and as many clusters by k-means, and its
    mean over all ways to deal the classes to the images (Vinh et al. 2010, section 4).

    An image counts as of its first class in alphabetical order, and one of none is skipped.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import mutual_info_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix, expected_mutual_information

    labelled = classes.of_images.any(1)
    of_images = classes.of_images[labelled].byte().argmax(1).tolist()
    means = KMeans(len(set(of_images)), n_init=1, random_state=0)
    with warnings.catch_warnings(), activity("clustering the images"):
        warnings.simplefilter("ignore", ConvergenceWarning)  # less distinct images than classes
        clusters = means.fit_predict(images[labelled].double().cpu().numpy())
    table = contingency_matrix(of_images, clusters, sparse=True)
    # What says all of itself is its entropy.
    normaliser = sum(mutual_info_score(one, one) for one in (of_images, clusters)) / 2
    # One class and one cluster say all of each other.
    chance = expected_mutual_information(table, len(of_images)) / normaliser if normaliser else 1.0
    return float(normalized_mutual_info_score(of_images, clusters)), float(chance)


def jaccard(classes: Classes, rows: Tensor) -> Tensor:
    """Return of some images and all, (some, images) float64, the labels that both have over those
    that either has; 0 where neither has any.
    """
    of_images = classes.of_images.double()
    both = of_images[rows] @ of_images.T
    either = of_images[rows].sum(1, keepdim=True) + of_images.sum(1) - both
    return both / either.clamp(min=1)


def discounted(gains: Tensor, k: int) -> Tensor:
    """Return Σᵢ gᵢ / log₂(i + 1) over the first k places of gains (queries, places)."""
    gains = gains[:, :k]
    places = torch.arange(gains.shape[1], dtype=torch.float64, device=gains.device)
    return (gains / (places + 2).log2()).sum(1)


def same_image(image_ids: Tensor) -> Choice:
    """Return for images by their rows which images are of the same id."""
    return lambda rows: image_ids[rows, None] == image_ids


def _counts(values: Tensor, classes: Classes, protocol: str) -> dict[str, float]:
    judged = int((values[:, 0] > 0).sum())
    counts = {
        "num_images": len(values),
        "num_classes": len(classes.names),
        "queries": judged,
        "queries_skipped": len(values) - judged,
    }
    return {f"{protocol}/{name}": float(count) for name, count in counts.items()}
