"""Data of a recipe: its opened shard sets, and the training set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from xmodal.activity import activity
from xmodal.assembly.data_record import DataRecord
from xmodal.assembly.recipe import Recipe
from xmodal.data.batch import BatchSpec
from xmodal.data.config import DataConfig, DataSetConfig
from xmodal.data.deferred import Deferred, can_defer
from xmodal.data.extra_items import MinedItems
from xmodal.data.length_buckets import LengthBuckets
from xmodal.data.manifest import Manifest, read_manifest
from xmodal.data.mixture import Mixture
from xmodal.data.numbered_views import NumberedViews
from xmodal.data.reader import SampleReader
from xmodal.data.taught_reader import TaughtReader
from xmodal.data.text_lengths import TextLengths
from xmodal.data.tokens import CaptionTokenizer
from xmodal.data.training_set import DataSet, TrainingSet
from xmodal.data.transforms import CENTRAL_SQUARE, ImageTransform
from xmodal.extras import require


@dataclass(frozen=True)
class Shards:
    """The shard sets that a recipe names; all but `train` where it names them."""

    train: Sequence[Manifest]
    val: Manifest | None = None
    gallery: Manifest | None = None
    probe_train: Manifest | None = None
    # A teacher's features of each of `train`.
    teacher: Sequence[Manifest] = field(default=(), kw_only=True)

    @property
    def measured(self) -> list[Manifest]:
        """The sets that evaluations read."""
        return [one for one in (self.val, self.gallery, self.probe_train) if one]

    @property
    def every(self) -> list[Manifest]:
        """All sets."""
        return [*self.train, *self.measured]

    @property
    def record(self) -> DataRecord:
        """The record of the sets for the run folder."""
        measured = {
            "data.val": self.val,
            "data.gallery": self.gallery,
            "data.probe_train": self.probe_train,
        }
        sets = {role: [one] if one else [] for role, one in measured.items()}
        return DataRecord({"data.train": self.train, **sets})


def open_shards(recipe: Recipe) -> Shards:
    """Read the manifests of all shard sets of a recipe."""
    data = recipe.data
    with activity("reading the indices of the shards"):
        train = [_open_training_set(one, data) for one in data.train]
        measured = (
            read_manifest(url, data.access, data.cache) if url else None
            for url in (data.val, data.gallery, data.probe_train)
        )
        return Shards(train, *measured)


def _open_training_set(one: DataSetConfig, data: DataConfig) -> Manifest:
    manifest = read_manifest(one.url, data.access, data.cache)
    if one.keep is None:
        return manifest
    require("search")
    from xmodal.data.keep_list import keep_only  # which imports pyarrow

    return keep_only(manifest, one.keep, data.access)


def epoch_samples(recipe: Recipe, shards: Shards) -> int:
    """Return the samples of an epoch of a recipe."""
    return recipe.data.epoch or sum(one.epoch_samples for one in shards.train)


def data_sets(
    recipe: Recipe, shards: Shards, mined: Sequence[MinedItems] | None = None
) -> list[DataSet]:
    """Return the data sets that a recipe trains on, with what is mined of each."""
    readers = (
        [TaughtReader(*both) for both in zip(shards.train, shards.teacher, strict=True)]
        if shards.teacher
        else [SampleReader(manifest) for manifest in shards.train]
    )
    items: Sequence[MinedItems | None] = mined or [None] * len(shards.train)
    return [
        DataSet(
            reader,
            one.texts,
            one.templates,
            one.min_side,
            one.max_pixels,
            _duplicates(one, recipe.data),
            own,
        )
        for reader, one, own in zip(readers, recipe.data.train, items, strict=True)
    ]


def read_mined_items(recipe: Recipe, shards: Shards) -> list[MinedItems] | None:
    """Return the mined items of each data set; None of a recipe without mined negatives."""
    data = recipe.data
    if not (data.negatives and data.negatives.mined):
        return None
    require("search")
    from xmodal.data.mined_table import read_mined  # which imports pyarrow

    counts = data.negatives.mined_texts, data.negatives.mined_images
    return [
        read_mined(one.mined or "", manifest, *counts, data.access)
        for one, manifest in zip(data.train, shards.train, strict=True)
    ]


def _duplicates(one: DataSetConfig, data: DataConfig) -> Mapping[int, int]:
    if one.duplicates is None:
        return {}
    require("search")
    from xmodal.data.duplicates import read_duplicates  # which imports pyarrow

    return read_duplicates(one.duplicates, data.access)


def mixture(recipe: Recipe, shards: Shards) -> Mixture:
    """Return the mixture of a recipe's data sets, which orders their samples."""
    return Mixture(
        [[shard.num_samples for shard in manifest.shards] for manifest in shards.train],
        [
            one.weight or manifest.epoch_samples
            for one, manifest in zip(recipe.data.train, shards.train, strict=True)
        ],
        seed=recipe.training.seed,
        lanes=recipe.data.num_lanes,
        window=recipe.data.window,
        sample_weights=[manifest.sample_weights for manifest in shards.train],
        buckets=_length_buckets(recipe, shards) if recipe.data.length_buckets else None,
    )


def _length_buckets(recipe: Recipe, shards: Shards) -> LengthBuckets:
    return LengthBuckets(
        [
            TextLengths(manifest, one.texts, one.templates)
            for manifest, one in zip(shards.train, recipe.data.train, strict=True)
        ],
        seed=recipe.training.seed,
        batch_size=recipe.data.batch_size,
    )


def evaluation_transform(recipe: Recipe) -> ImageTransform:
    """Return the preprocessing of images that belongs to a recipe's model."""
    image = recipe.method.image
    return ImageTransform(image.size, preprocessing=image.preprocessing or CENTRAL_SQUARE)


def training_set(
    recipe: Recipe,
    shards: Shards,
    order: Mixture,
    tokenizer: CaptionTokenizer,
    contents: BatchSpec,
    mined: Sequence[MinedItems] | None = None,
    *,
    defer: bool = False,
) -> TrainingSet:
    """Return the training set whose batches hold `contents`.

    With `defer`, flips and augmentations are left to the training device where it knows them.
    """
    data = recipe.data
    augment = data.augment.build() if data.augment else None
    transform = replace(
        evaluation_transform(recipe), crop=data.crop, scaled_decoding=data.scaled_decoding
    )
    of_extra = replace(transform, flip=data.flip, augment=augment)
    if defer and can_defer(data.flip, augment):
        transform = replace(transform, deferred=Deferred(data.flip, augment))
    else:
        transform = of_extra
    return TrainingSet(
        data_sets(recipe, shards, mined),
        order,
        transform,
        tokenizer,
        seed=recipe.training.seed,
        contents=contents,
        negatives=data.negatives,
        extra_transform=of_extra,
        text_dropout=data.text_dropout,
        positives=data.positives,
        numbered=NumberedViews(data.teacher.seed, data.teacher.views) if data.teacher else None,
    )


def mixture_lines(recipe: Recipe, shards: Shards, order: Mixture) -> list[str]:
    """Return the share of each data set, where there are several."""
    if len(shards.train) == 1:
        return []
    return [
        f"{one.url}: {manifest.epoch_samples:,} samples, {count} of every {order.lanes} "
        f"({count / order.lanes:.1%})"
        for one, manifest, count in zip(recipe.data.train, shards.train, order.counts, strict=True)
    ]
