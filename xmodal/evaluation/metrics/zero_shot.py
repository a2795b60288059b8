"""Classification of images by the names of their classes (Radford et al. 2021, section 3.1)."""

import torch
from torch import Tensor

from xmodal.evaluation.metrics.classes import Classes
from xmodal.evaluation.metrics.recall import chance_recall
from xmodal.evaluation.metrics.similarity import Similarity, rank_all

CUTOFFS = (1, 5)
HIGHER_IS_BETTER = (*(f"top{k}" for k in CUTOFFS), "mean_class_recall")


def class_ranks(
    images: Tensor, classes: Classes, prototypes: Tensor, similarity: Similarity, tile: int
) -> Tensor:
    """Return the best rank of a class of its own of each image that has one, (labelled,).

    Args:
        images: (images, …) embeddings.
        classes: which image is of which classes.
        prototypes: (classes, …) embeddings of the classes.
        similarity: orders texts for an image.
        tile: about the largest side of a tile of scores.
    """
    labelled = classes.of_images.any(1)
    of_images = classes.of_images[labelled]
    # A further image stands for the classes that no image is of; its rank is dropped.
    none = ~of_images.any(0, keepdim=True)
    ranked = torch.cat([images[labelled], images[: int(none.any())]])
    pairs = torch.cat([of_images, none]).nonzero()
    # Ties count against the model, as in all ranks.
    return rank_all(ranked, prototypes, pairs, similarity, tile).image_to_text[: len(of_images)]


def zero_shot_metrics(ranks: Tensor, classes: Classes, protocol: str) -> dict[str, float]:
    """Name and number of every metric of classification, in percent.

    `P/top1` and `P/top5`, the share of images with one of their own classes among the first; and
    `P/mean_class_recall`, top 1 among the images of a class, as a mean over classes that have any;
    each with its chance. Images without a class are skipped and counted.

    Args:
        ranks: (labelled,) of the images that have a class, as `class_ranks` returns them.
        classes: which image is of which classes.
        protocol: P.
    """
    of_images = classes.of_images[classes.of_images.any(1)]
    counts = {
        "num_images": len(of_images),
        "images_skipped": len(classes.of_images) - len(of_images),
        "num_classes": of_images.shape[1],
    }
    metrics = accuracies(ranks, of_images) | {name: float(n) for name, n in counts.items()}
    return {f"{protocol}/{name}": value for name, value in metrics.items()}


def accuracies(ranks: Tensor, of_images: Tensor) -> dict[str, float]:
    """Return the metrics and their chance, in percent, from each image's best rank of a class of
    its own, (images,), and the classes of images, (images, classes) bool.
    """
    metrics: dict[str, Tensor] = {}
    for k in CUTOFFS:
        correct = (ranks < k).double()
        chance = chance_recall(of_images.sum(1), of_images.shape[1], k).to(correct.device)
        metrics |= {f"top{k}": correct.mean(), f"top{k}_chance": chance.mean()}
        if k == 1:
            metrics["mean_class_recall"] = _mean_over_classes(correct, of_images)
            metrics["mean_class_recall_chance"] = _mean_over_classes(chance, of_images)
    return {name: 100 * float(value) for name, value in metrics.items()}


def _mean_over_classes(values: Tensor, of_images: Tensor) -> Tensor:
    """Return the mean, over classes that have images, of each one's mean of values (images,)."""
    belongs = of_images[:, of_images.any(0)].to(values.dtype)
    return ((values @ belongs) / belongs.sum(0)).mean()
