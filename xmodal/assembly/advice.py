"""Warnings about settings and data with which training would learn little, each one line."""

from collections.abc import Iterator, Sequence
from typing import Any

from xmodal.assembly.recipe import Recipe
from xmodal.data.batch import BatchSpec
from xmodal.data.manifest import Manifest
from xmodal.data.reader import SampleReader
from xmodal.data.survey import Survey, survey
from xmodal.data.tokens import CaptionTokenizer
from xmodal.data.training_set import DataSet
from xmodal.training.timeline import StageSpan, Timeline

# Expected samples of a batch, for each of its samples, that say the same of another image.
FALSE_NEGATIVES = 0.25
CUT, UNKNOWN = 0.1, 0.2  # shares of captions and of words above which the log warns
FEW_STEPS = 10  # an epoch


def lines_before_training(
    recipe: Recipe,
    contents: BatchSpec,
    timeline: Timeline,
    train: Sequence[DataSet],
    val: Manifest | None,
    tokenizer: CaptionTokenizer,
) -> Iterator[str]:
    """Yield warnings about a recipe and a survey of its data, and the size of a vocabulary of
    words.
    """
    samples = sum(one.reader.manifest.epoch_samples for one in train)
    for warning in warnings_of_recipe(recipe, contents, timeline, samples):
        yield f"warning: {warning}"
    if contents.composed:
        return  # a query's target is named by an id of its own, or the query is bad
    measured = [DataSet(SampleReader(val))] if val else []
    for one in {_identity(one): one for one in (*train, *measured)}.values():
        found = survey(one, tokenizer, captions=contents.captions > 0)
        if _has_unknown_words(recipe) and found.tokens.tokens:
            share = found.tokens.unknown / found.tokens.tokens
            size = f"vocabulary of {tokenizer.vocabulary:,} words"
            yield f"{size}: {share:.1%} of those in {found.url} are unknown"
        for warning in warnings_of_data(recipe, contents, found):
            yield f"warning: {warning}"


def _identity(one: DataSet) -> tuple[object, ...]:
    manifest = one.reader.manifest
    return manifest.url, manifest.fingerprint, *one.texts.items(), *one.templates


def warnings_of_recipe(
    recipe: Recipe, contents: BatchSpec, timeline: Timeline, samples: int
) -> Iterator[str]:
    """Yield warnings about a recipe for a training set of so many samples."""
    batch = recipe.data.batch_size
    if batch == 1 and contents.captions:
        yield "data.batch_size=1: a batch has no negatives; use 2 or more"
    if samples == 1:
        yield "the training set has a single sample, and no negative for it; build it of more"
    elif batch > samples:
        yield (
            f"data.batch_size={batch} is larger than the training set ({samples:,} samples): a "
            f"batch holds samples more than once; use data.batch_size={_fitting(samples)} or less"
        )
    elif timeline.epoch_samples < FEW_STEPS * batch and timeline.total < 100 * FEW_STEPS:
        size = _fitting(timeline.epoch_samples // FEW_STEPS)
        steps = timeline.total * batch // size if _in_epochs(recipe) else 0
        if steps > timeline.total:
            yield (
                f"data.batch_size={batch} makes {_counted(timeline.total)} of this training set; "
                f"data.batch_size={size} makes about {_counted(steps)}"
            )
    yield from _warnings_of_patches(recipe.method.image)
    for span in timeline.stages:
        yield from _warnings_of_stage(span, timeline)
    stopping = recipe.training.early_stopping
    if stopping and stopping.patience >= timeline.evaluations:
        yield (
            f"training.early_stopping.patience={stopping.patience} never ends the run, which has "
            f"{timeline.evaluations} evaluations; lower it, or evaluation.every"
        )
    if recipe.data.val is None:
        yield (
            "data.val is null: nothing is measured while training; set data.val=URL, or measure "
            f"afterwards: python launch/evaluate.py {recipe.run} --data URL"
        )


def _warnings_of_patches(image: Any) -> Iterator[str]:
    patch = getattr(image, "patch", None)  # of a vision transformer by its sizes
    if patch and image.size % patch:
        rest = image.size % patch
        yield (
            f"method.image.size={image.size} is no multiple of method.image.patch={patch}: the "
            f"last {rest} pixels of each side are not read; use {image.size - rest} or "
            f"{image.size - rest + patch}"
        )


def _warnings_of_stage(span: StageSpan, timeline: Timeline) -> Iterator[str]:
    length, key = span.end - span.start, f"stages.{span.number}.schedule"
    schedule = span.config.schedule
    for line in schedule.advice(length, lambda d: timeline.steps(d, length), key):
        yield f"stage {span.config.name}: {line}"
    if span.config.optimizer.averages and schedule.kind != "constant":
        yield (
            f"stage {span.config.name}: {span.config.optimizer.kind} is made for a rate that does "
            f"not fall; use {key}.kind=constant"
        )


def warnings_of_data(recipe: Recipe, contents: BatchSpec, found: Survey) -> Iterator[str]:
    """Yield warnings about the surveyed samples of a set of pairs."""
    if contents.captions and not contents.labels:
        if recipe.data.positives == "image":
            yield from _warnings_of_negatives(recipe, found)
        elif found.samples > 1 and (
            found.labels == 1
            if recipe.data.positives == "label"
            else found.chance_of_same_caption == 1
        ):
            yield (
                f"{found.url}: all {found.samples} surveyed samples have the same "
                f"{recipe.data.positives}, so by data.positives={recipe.data.positives} none is a "
                "negative of another; remove that key, or name other shards"
            )
    yield from _warnings_of_tokens(recipe, found)


def _warnings_of_negatives(recipe: Recipe, found: Survey) -> Iterator[str]:
    if found.ids == 1 < found.samples:
        yield (
            f"{found.url}: all {found.samples} surveyed samples have the same image_id, so none "
            "is a negative of another; give each image an image_id of its own, or none"
        )
    if found.twins:
        yield (
            f"{found.url} has the same image under different ids: {found.twins} such samples among "
            f"{found.samples} surveyed, whose captions count as wrong for each other; give equal "
            "images the same image_id in their JSON"
        )
    false_negatives = found.chance_of_same_caption * (recipe.data.batch_size - 1)
    if false_negatives > FALSE_NEGATIVES:
        yield (
            f"{found.url}: each sample has about {false_negatives:.1f} negatives in a batch whose "
            "caption is its own; data.positives=caption makes them positives (or label, where the "
            "shards have labels)"
        )


def _warnings_of_tokens(recipe: Recipe, found: Survey) -> Iterator[str]:
    text, tokens = recipe.method.text, found.tokens
    if not tokens.captions or text is None:
        return
    if tokens.cut > CUT * tokens.captions:
        yield (
            f"{found.url}: {tokens.cut / tokens.captions:.0%} of the surveyed captions are longer "
            "than the context and lose their end; raise method.text.context"
        )
    if tokens.unknown > UNKNOWN * tokens.tokens:
        yield (
            f"{found.url}: {tokens.unknown / tokens.tokens:.0%} of the words in the surveyed "
            f"captions are not in the vocabulary; {text.tokenizer.remedy}"
        )


def _counted(steps: int) -> str:
    return f"{steps:,} step{'s' * (steps != 1)}"


def _in_epochs(recipe: Recipe) -> bool:
    return any(stage.length.unit != "steps" for stage in recipe.stages)


def _fitting(samples: int) -> int:
    """Return the largest power of two that is at most `samples`, and at least 2."""
    return max(2, 1 << (max(samples, 1).bit_length() - 1))


def _has_unknown_words(recipe: Recipe) -> bool:
    text = recipe.method.text
    return text is not None and text.tokenizer.has_unknown_words
