"""What can be known to be wrong with a recipe, its shards and its ranks before training begins."""

import difflib
from collections.abc import Sequence

from xmodal.data.config import nearest_divisors
from xmodal.data.decode import BadSample
from xmodal.data.kind import PROBED, Kind
from xmodal.data.manifest import Manifest
from xmodal.data.reader import SampleReader
from xmodal.errors import UserError
from xmodal.methods.build import method_of
from xmodal.methods.method import Method
from xmodal.models.config import FeaturesConfig
from xmodal.recipe import Recipe
from xmodal.training.config import StageConfig
from xmodal.training.features import locked_sides
from xmodal.training.parts import parameter_groups, select_trained
from xmodal.training.progress import find_metric


def check_whole(shards: Manifest, max_bad_share: float) -> None:
    """Raise `UserError` where so much of the shards is cut off that training would have to stop."""
    if shards.lost > max_bad_share * max(shards.num_samples, 1000):
        raise UserError(
            f"{shards.notices[0]}: about {shards.lost:,} of {shards.num_samples:,} samples in "
            f"{len(shards.notices)} such shards, more than data.max_bad_share={max_bad_share:g}; "
            "write them again, or run `python -m shards index` on what is left"
        )


def check_sizes(recipe: Recipe, ranks: int) -> None:
    """Raise `UserError` where the ranks do not divide the lanes, and so not the batch, or where
    micro-batches do not divide a rank's share of it.
    """
    data = recipe.data
    if data.num_lanes % ranks == 0:
        share = data.batch_size // ranks
        if data.micro_batch_size and share % data.micro_batch_size:
            raise UserError(
                f"ranks × data.micro_batch_size ({ranks} × {data.micro_batch_size}) does not "
                f"divide data.batch_size={data.batch_size}; nearest micro_batch_size: "
                + nearest_divisors(share, data.micro_batch_size)
            )
        return
    key, size = "batch_size", data.batch_size
    fitting = [size // ranks * ranks, -(-size // ranks) * ranks]
    if data.batch_size % ranks == 0:
        key, size = "lanes", data.num_lanes
        fitting = [n for n in range(ranks, data.batch_size + 1, ranks) if data.batch_size % n == 0]
    near = [
        max((n for n in fitting if 0 < n < size), default=0),
        min(n for n in fitting if n > size),
    ]
    raise UserError(
        f"{ranks} ranks do not divide data.{key}={size}; nearest: "
        + " or ".join(str(n) for n in near if n)
    )


def check_method(recipe: Recipe) -> Method:
    """Return a recipe's method, to look at.

    Raises `UserError` for an encoder that cannot be had, or for parts to train or losses to
    minimise that there are not.
    """
    # The vocabulary itself is learned later: its size is all that the parts depend on.
    method = method_of(recipe.method, getattr(recipe.method.text, "vocabulary", 0))
    if method.learned_score and recipe.training.zero == 3:
        raise UserError(
            f"training.zero=3 shares out the network that {recipe.method.kind} scores with, which "
            "ranks need at different times in evaluation: use training.zero=2"
        )
    if recipe.data.views > 1:
        raise UserError(f"data.views=2, but {recipe.method.kind} sees one view of an image: use 1")
    if recipe.data.feature_cache:
        locked_sides(method, recipe)
    for number, stage in enumerate(recipe.stages):
        select_trained(method, stage.train)
        parameter_groups(method, stage)
        check_losses(method, stage, f"stages.{number}.losses")
    return method


def check_losses(method: Method, stage: StageConfig, key: str) -> None:
    """Raise `UserError` where a stage minimises what the method has not, or does not say what."""
    known = ", ".join(method.losses)
    if not stage.losses and len(method.losses) > 1:
        raise UserError(
            f"{key} is missing: the method has several ({known}); name those of a stage"
        )
    for name in stage.losses:
        if name not in method.losses:
            near = difflib.get_close_matches(name, method.losses, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise UserError(f"{key}.{name} is no loss of the method{hint}; it has {known}")


def check_kind(recipe: Recipe, url: str, kind: Kind, *, local: bool) -> None:
    """Raise `UserError` where shards hold features and the encoder wants none, or the reverse.

    With `local`, features may be those of several positions, (positions, features).
    """
    encoders = {"image": recipe.method.image, "text": recipe.method.text}
    for (side, encoder), shape in zip(encoders.items(), kind, strict=True):
        wanted = (encoder.features,) if isinstance(encoder, FeaturesConfig) else None
        if wanted == shape or (local and wanted and shape and wanted == shape[1:]):
            continue
        held = f"features of shape {shape}" if shape else "no features"
        raise UserError(
            f"method.{side} is kind: {encoder.kind}"
            f"{f', features: {wanted[0]}' if wanted else ''}, but {url} holds {held} of the "
            f"{side}; use shards and an encoder that go together, and name the latter in "
            f"method.{side}"
        )


def check_labels(reader: SampleReader, method: str) -> None:
    """Raise `UserError` where a method learns from classes and a set's samples have none."""
    for number in range(min(PROBED, len(reader))):
        try:
            reader[number].label()
        except BadSample:
            continue
        return
    raise UserError(
        f"{method} learns from classes, and the first samples of {reader.manifest.url} have no "
        "`labels` in their JSON; use shards with labels"
    )


def check_best(name: str, names: Sequence[str]) -> None:
    """Raise `UserError` unless `name` is one of the metrics `names`, of which more is better."""
    find_metric(dict.fromkeys(names, 0.0), name)
