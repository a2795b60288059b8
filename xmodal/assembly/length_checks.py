"""Checks that length buckets have texts to order, and padding to cut."""

from xmodal.assembly.feature_cache import locked_sides
from xmodal.assembly.recipe import Recipe
from xmodal.errors import UserError
from xmodal.methods.method import Method


def check_length_buckets(recipe: Recipe, method: Method) -> None:
    """Raise `UserError` where batches hold no tokens that `data.length_buckets` could order."""
    if not recipe.data.length_buckets:
        return
    text = recipe.method.text
    if not method.contents.captions or text is None:
        raise UserError(
            f"data.length_buckets: {recipe.method.kind} reads no texts; set it to false"
        )
    if text.reads_features:
        raise UserError(
            "data.length_buckets: method.text is kind: features, which have no length; set it to "
            "false"
        )
    if recipe.data.feature_cache and locked_sides(method, recipe).text:
        raise UserError(
            "data.length_buckets: data.feature_cache holds the features of texts, which have no "
            "length; set one of the two to false or null"
        )
