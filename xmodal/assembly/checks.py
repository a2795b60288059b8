"""Checks of a recipe, its shards and its ranks before training begins."""

import difflib
from collections.abc import Sequence

from torch import nn

from xmodal.assembly.data import Shards, data_sets
from xmodal.assembly.engine_checks import check_partition, check_precision
from xmodal.assembly.feature_cache import locked_sides
from xmodal.assembly.feature_encoding import NO_MEAN
from xmodal.assembly.length_checks import check_length_buckets
from xmodal.assembly.pair_checks import check_positives, check_queue
from xmodal.assembly.recipe import Recipe
from xmodal.assembly.teacher import check_teacher
from xmodal.data.batch import GALLERY, BatchSpec
from xmodal.data.config import nearest_divisors
from xmodal.data.decode import BadSample
from xmodal.data.manifest import Manifest
from xmodal.data.reader import SampleReader
from xmodal.data.sample_spec import PROBED, SampleSpec, evaluated_parts, infer_sample_spec
from xmodal.data.text_lengths import check_lengths
from xmodal.data.training_set import DataSet
from xmodal.errors import UserError
from xmodal.evaluation.context import EvaluationData
from xmodal.evaluation.protocols.registry import check_protocols, metric_names, protocol, resolve
from xmodal.methods.method import Method
from xmodal.models.prepare_blocks import check_blocks
from xmodal.models.running_statistics import batch_norms
from xmodal.runs.progress import find_metric, full_name
from xmodal.training.config import DEFAULT_BEST, StageConfig
from xmodal.training.optimizers.shares import works_on_shares
from xmodal.training.parts import parameter_groups, select_trained, set_modes, unchanged
from xmodal.training.requirements import check_known


def check_shards(recipe: Recipe, shards: Shards, ranks: int) -> None:
    """Raise `UserError` where shards are damaged, or too few for so many ranks."""
    for one in shards.every:
        check_whole(one, recipe.data.max_bad_share)
    for one in shards.measured:
        check_measurable(one, ranks)
    for one in shards.train if recipe.data.length_buckets else ():
        check_lengths(one)


def check_run(recipe: Recipe, shards: Shards, method: Method, ranks: int) -> Sequence[str]:
    """Return the protocols that data.val is measured by.

    Raises `UserError` where recipe, shards, method and ranks do not fit each other.
    """
    check_method(recipe, method)
    check_precision(recipe, method)
    check_batch_norm(recipe, method, ranks)
    check_queue(recipe, sum(one.num_samples for one in shards.train))
    for one in data_sets(recipe, shards):
        _check_training_set(recipe, one, method)
    protocols = _check_evaluation(recipe, shards, method) if shards.val else []
    if recipe.training.early_stopping and not shards.val:
        raise UserError(
            "training.early_stopping watches the evaluation of data.val, which is null; name "
            "shards, or remove it"
        )
    for stage in recipe.stages:
        check_known(stage, method, protocols)
    return protocols


def _check_training_set(recipe: Recipe, data_set: DataSet, method: Method) -> None:
    contents, reader = method.contents, data_set.reader
    found = infer_sample_spec(reader, data_set.texts, captions=contents.captions)
    check_sample_spec(recipe, reader.manifest.url, found, contents, local=method.local)
    if contents.labels or recipe.data.positives == "label":
        check_labels(reader, recipe.method.kind if contents.labels else "data.positives=label")


def _check_evaluation(recipe: Recipe, shards: Shards, method: Method) -> Sequence[str]:
    assert shards.val is not None
    others = (shards.gallery, shards.probe_train)
    for one, parts in ((shards.val, method.contents), *((one, GALLERY) for one in others)):
        if one:
            contents = evaluated_parts(SampleReader(one), parts)
            found = infer_sample_spec(SampleReader(one), captions=contents.captions)
            check_sample_spec(recipe, one.url, found, contents, local=method.local)
    relevance = shards.val.relevance
    protocols = resolve(recipe.evaluation.protocols, method.contents, relevance)
    readers = (SampleReader(one) if one else None for one in others)
    data = EvaluationData(
        method, SampleReader(shards.val), shards.val, relevance, recipe.evaluation, *readers
    )
    check_protocols(protocols, data)
    names = metric_names(protocols, method)
    best = best_metric(recipe, protocols, method)
    check_best(best, names)
    if stopping := recipe.training.early_stopping:
        check_best(stopping.metric or best, names, "training.early_stopping.metric")
    return protocols


def check_whole(shards: Manifest, max_bad_share: float) -> None:
    """Raise `UserError` where too much of the shards is cut off."""
    if shards.lost > max_bad_share * max(shards.num_samples, 1000):
        raise UserError(
            f"{shards.truncated[0]}: about {shards.lost:,} of {shards.num_samples:,} samples in "
            f"{len(shards.truncated)} such shards, more than data.max_bad_share={max_bad_share:g}; "
            "write them again, or run `python -m shards index` on the rest"
        )


def check_sizes(recipe: Recipe, ranks: int) -> None:
    """Raise `UserError` where the ranks do not divide the lanes, and so not the batch, or where
    micro-batches do not divide a rank's share of it.
    """
    check_partition(recipe, ranks)
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


def check_measurable(shards: Manifest, ranks: int) -> None:
    """Raise `UserError` where evaluation has fewer samples than ranks."""
    if shards.num_samples < ranks:
        raise UserError(
            f"{ranks} ranks cannot share the samples of {shards.url} in evaluation: there are only "
            f"{shards.num_samples}; use at most so many ranks, or other shards"
        )


def check_method(recipe: Recipe, method: Method) -> None:
    """Raise `UserError` for parts to train or losses to minimise that a method does not have, or
    keys of the recipe that do not fit it.
    """
    if method.learned_score and recipe.training.zero.stage == 3:
        raise UserError(
            f"training.zero=3 partitions the network that {recipe.method.kind} scores with, but "
            "ranks need it at different times in evaluation: use training.zero=2"
        )
    check_data(recipe, method.contents)
    check_length_buckets(recipe, method)
    training = recipe.training
    check_blocks(
        method, training.checkpoint_activations, compiles=training.compile, zero=training.zero.stage
    )
    if recipe.data.feature_cache:
        check_feature_cache(recipe, method)
    with unchanged(method):
        for number, stage in enumerate(recipe.stages):
            select_trained(method, stage.train, stage.lock, key=f"stages.{number}")
            parameter_groups(method, stage, f"stages.{number}")
            check_optimizer(stage, recipe.training.zero.stage, f"stages.{number}.optimizer")
            check_losses(method, stage, f"stages.{number}.losses")


def check_optimizer(stage: StageConfig, zero: int, key: str) -> None:
    """Raise `UserError` for an optimiser that there is not, or that ZeRO would change."""
    if not works_on_shares(stage.optimizer) and zero:
        name = getattr(stage.optimizer, "name", stage.optimizer.kind)
        raise UserError(
            f"{key}: a step of {name} needs whole matrices, and training.zero={zero} gives each "
            "rank shares of them; use training.zero=0, or an optimiser such as adamw or timm's lion"
        )


def check_data(recipe: Recipe, contents: BatchSpec) -> None:
    """Raise `UserError` where a key of `data` is missing for a method, or has no effect on it."""
    data, kind = recipe.data, recipe.method.kind
    if data.text_dropout and (contents.views, contents.captions) != (2, 2):
        raise UserError(
            f"data.text_dropout={data.text_dropout:g} drops texts of views, and {kind} "
            "has no text for each of two views: set it to 0"
        )
    if contents.composed and data.val and not data.gallery:
        raise UserError(
            f"data.gallery is missing: {kind} answers the queries of data.val from a gallery; name "
            "its shards"
        )
    if data.gallery and not contents.composed:
        raise UserError(
            f"data.gallery={data.gallery} is searched by composed queries, and {kind} makes none: "
            "remove it"
        )
    check_positives(recipe, contents)
    check_teacher(recipe, contents)
    if data.gallery and not data.val:
        raise UserError("data.gallery is given without data.val, whose queries are searched in it")


def check_feature_cache(recipe: Recipe, method: Method) -> None:
    """Raise `UserError` where features cannot be cached.

    No encoder is locked, images change at each pass, texts are drawn from keys of the JSON, or
    features of words do not give those of a text.
    """
    data, sides = recipe.data, locked_sides(method, recipe)
    if sides.text and method.local and not recipe.method.text.pools_by_mean:
        raise UserError(NO_MEAN.format(side="text"))
    if sides.text and any(one.texts for one in data.train):
        raise UserError(
            "data.feature_cache: the text encoder is never trained, but `texts` of data.train draw "
            "from keys of the JSON, and features are those of captions; remove one of the two"
        )
    if not sides.image:
        return
    changes = {
        "data.crop": data.crop,
        "data.flip": data.flip,
        "data.augment": data.augment,
        f"two views of each ({recipe.method.kind})": method.contents.views > 1,
    }
    if change := next((name for name, changing in changes.items() if changing), None):
        raise UserError(
            "data.feature_cache: the image encoder is never trained, but images change at each "
            f"pass, by {change}, and what changes cannot be computed once; write crop: null, "
            "flip: false and augment: null, or set feature_cache to null"
        )


def check_batch_norm(recipe: Recipe, method: Method, ranks: int) -> None:
    """Raise `UserError` where a layer would normalise vectors over a single sample."""
    data = recipe.data
    if ranks * (data.micro_batch_size or data.batch_size // ranks) > 1:
        return
    key = "batch_size" if data.batch_size == 1 else "micro_batch_size"
    with unchanged(method):
        for stage in recipe.stages:
            select_trained(method, stage.train, stage.lock)
            # Those of pretrained image encoders have several positions of a sample.
            set_modes(method, freeze_batch_norm=True)
            for name, norm in batch_norms(method).items():
                if isinstance(norm, nn.BatchNorm1d):
                    raise UserError(
                        f"data.{key}=1: {name} of {recipe.method.kind} normalises over the samples "
                        "that are encoded together, and a single one has no variance; use 2 "
                        "or more"
                    )


def check_losses(method: Method, stage: StageConfig, key: str) -> None:
    """Raise `UserError` where a stage names an unknown loss, or none where there are several."""
    known = ", ".join(method.losses)
    if not stage.losses and len(method.losses) > 1:
        raise UserError(
            f"{key} is missing: the method has several ({known}); name those of a stage"
        )
    for name in stage.losses:
        if name not in method.losses:
            near = difflib.get_close_matches(name, method.losses, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise UserError(f"{key}.{name} is not a loss of the method{hint}; it has {known}")


def check_sample_spec(
    recipe: Recipe, url: str, kind: SampleSpec, contents: BatchSpec, *, local: bool
) -> None:
    """Raise `UserError` where the samples of shards do not fit the method.

    With `local`, features may be those of several positions, (positions, features).
    """
    if contents.composed and not kind.composed:
        raise UserError(
            f"{recipe.method.kind} reads composed queries (KEY.source.jpg, KEY.target.jpg, a "
            f"modification in the JSON), and {url} holds none; name such shards"
        )
    if kind.composed and not contents.composed:
        raise UserError(
            f"{url} holds composed queries (KEY.source.jpg, KEY.target.jpg), but single "
            "images (KEY.jpg) are read here; name shards of those"
        )
    if contents.views > 1 and kind.image:
        raise UserError(
            f"{recipe.method.kind} compares two views of an image, and {url} holds features in the "
            "place of images; name shards of images"
        )
    for side in ("image", "text") if contents.captions else ("image",):
        encoder, shape = getattr(recipe.method, side), getattr(kind, side)
        wanted = (encoder.features,) if encoder.reads_features else None
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


def best_metric(recipe: Recipe, protocols: Sequence[str], method: Method) -> str:
    """Return the metric that chooses the best checkpoint: that of `checkpoints.best`, or by default
    `DEFAULT_BEST` if it is measured, else the headline of the first protocol.
    """
    given, names = recipe.checkpoints.best, metric_names(protocols, method)
    if given or not names or full_name(DEFAULT_BEST, names):
        return given or DEFAULT_BEST
    headline = f"{protocols[0]}/{protocol(protocols[0]).headline}"
    return headline if headline in names else names[0]


def check_best(name: str, names: Sequence[str], key: str = "checkpoints.best") -> None:
    """Raise `UserError` unless `name`, which a key of the recipe has, is one of the metrics."""
    find_metric(dict.fromkeys(names, 0.0), name, key)
