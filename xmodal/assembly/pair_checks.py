"""Checks of a recipe's positives, and of the negatives that are kept beside the batch."""

from xmodal.assembly.recipe import Recipe
from xmodal.data.batch import BatchSpec
from xmodal.errors import UserError


def check_positives(recipe: Recipe, contents: BatchSpec) -> None:
    """Raise `UserError` where samples lack the property that data.positives compares."""
    positives, kind, text = recipe.data.positives, recipe.method.kind, recipe.method.text
    if positives == "image":
        return
    if contents.composed or contents.labels or not contents.captions:
        raise UserError(
            f"data.positives={positives} is for methods that match images and captions; {kind} "
            "does not: remove it"
        )
    if positives == "caption" and ((text and text.reads_features) or recipe.data.feature_cache):
        raise UserError(
            "data.positives=caption reads captions, and training reads features in their place; "
            "use label, or encoders and no data.feature_cache"
        )


def check_queue(recipe: Recipe, num_samples: int) -> None:
    """Raise `UserError` where a queue would hold samples twice."""
    queue = getattr(recipe.method, "queue", None)
    if queue and queue.size > num_samples:
        raise UserError(
            f"method.queue.size: a queue of {queue.size:,} is longer than data.train, which has "
            f"{num_samples:,} samples; choose at most so many"
        )
