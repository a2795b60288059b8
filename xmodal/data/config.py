"""Configuration of the recipe's `data`: shards, order, batches and transforms."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_serializer,
    field_validator,
    model_validator,
)

from xmodal.components.config import Config, Mark
from xmodal.data.augmentations.config import AugmentationConfig
from xmodal.data.limits import MAX_PIXELS
from xmodal.data.storage.config import CacheConfig, StorageConfig
from xmodal.data.storage.s3 import S3Config
from xmodal.data.teacher import TeacherConfig

LABELS = "labels"  # the key of the JSON that has a sample's classes
Probability = Annotated[float, Field(ge=0, le=1)]


class DataSetConfig(Config):
    """A training data set; for a single one its URL is enough (data.train=URL)."""

    url: str = Field(
        description="its shards: a folder, or tars with braces (DIR/train-{0000..0099}.tar), on "
        "disk or in s3://"
    )
    keep: str | None = Field(
        None,
        description="keep-list: a parquet file with columns shard and key, and weight (expected "
        "occurrences an epoch) if wanted; only its samples are read; null: all",
    )
    duplicates: str | None = Field(
        None,
        description="parquet file with columns group and image_id (groups.parquet of `curate "
        "duplicates`): images of a group are no negatives of each other; null: image ids decide",
    )
    mined: str | None = Field(
        None,
        description="table hard.parquet of `launch/curate.py mine` over it, which "
        "data.negatives.mined_texts and mined_images are taken from",
    )
    weight: PositiveFloat | None = Field(
        None,
        description="its share of every batch, relative to the other weights; null: its "
        "number of samples",
    )
    texts: dict[str, PositiveFloat] = Field(
        {},
        description="keys of the JSON, or `txt`, that a caption is drawn from, each with its "
        "probability; {}: all captions alike",
    )
    templates: list[str] = Field(
        [],
        description="sentences that a label is put into, in the place of {}, where `texts` draw "
        "from `labels`: captions made of class names (a photo of a {}.); []: the label alone",
    )
    min_side: PositiveInt = Field(1, description="skip images with a side of fewer pixels")
    max_pixels: PositiveInt = Field(MAX_PIXELS, description="skip images of more pixels")

    def __str__(self) -> str:
        return self.url if self.keep is None else f"{self.url} (samples of {self.keep})"

    @model_validator(mode="after")
    def _of_labels(self) -> Self:
        if self.templates and LABELS not in self.texts:
            raise ValueError("templates make captions of labels: write texts: {labels: 1} beside")
        for template in self.templates:
            if "{}" not in template:
                raise ValueError(f"template {template!r} has no {{}}, the place of a class's name")
        return self


class NegativesConfig(Config):
    """Negatives beside each sample of a batch, which are false of it; fewer where there are not so
    many.
    """

    texts: NonNegativeInt = Field(
        0,
        description="texts that are false of the image: false_captions of its caption in its JSON, "
        "or for a sample without any its caption with words swapped by rules (English)",
    )
    mined_texts: NonNegativeInt = Field(
        0, description="captions of the samples that the `mined` table has as its `texts`"
    )
    mined_images: NonNegativeInt = Field(
        0, description="images of the samples that the `mined` table has as its `images`"
    )

    @property
    def mined(self) -> bool:
        """True where any are of the tables of mined items."""
        return bool(self.mined_texts or self.mined_images)

    @property
    def sides(self) -> list[str]:
        """Kinds of items: texts, images."""
        counts = {"texts": self.texts + self.mined_texts, "images": self.mined_images}
        return [side for side, count in counts.items() if count]

    @model_validator(mode="after")
    def _any(self) -> Self:
        if not self.sides:
            raise ValueError("write how many: texts, mined_texts or mined_images")
        return self


class DataConfig(Config):
    """Sources of samples, and their combination into global batches."""

    train: tuple[DataSetConfig, ...] = Field(
        min_length=1, description="shards to train on: a URL, or a list of data sets to mix"
    )
    val: str | None = Field(None, description="shards to evaluate on: a URL, as of data.train")
    gallery: str | None = Field(
        None,
        description="shards of gallery images, if data.val has composed queries",
    )
    probe_train: str | None = Field(
        None, description="labelled shards that the protocols linear-probe and knn are fitted on"
    )
    epoch: PositiveInt | None = Field(
        None, description="samples that count as an epoch; null: those of all data sets together"
    )
    s3: Annotated[S3Config, Mark.FREE, Mark.LASTING] = S3Config()
    storage: Annotated[tuple[StorageConfig, ...], Mark.FREE, Mark.LASTING] = Field(
        (), description="access to URLs of other schemes, which plugins add"
    )
    cache: Annotated[CacheConfig | None, Mark.FREE] = Field(
        None, description="null: nothing is cached"
    )
    build: str | None = Field(
        None,
        description="source that generates `train` and `val` if they do not exist yet, such as "
        "scenes, or one of a plugin",
    )
    batch_size: PositiveInt = Field(256, description="pairs that the objective sees, all ranks")
    micro_batch_size: PositiveInt | None = Field(
        None,
        description="samples an encoder pass holds on a rank; null: the rank's whole share of the "
        "batch",
    )
    lanes: PositiveInt | None = Field(
        None,
        description="nearly sequential reads that a batch is drawn from; divides batch_size, and "
        "the ranks divide it; default: batch_size, halved while above 256",
    )
    window: PositiveInt = Field(
        64,
        description="samples of a lane that are permuted together; lanes × window samples are in "
        "the memory of all ranks",
    )
    length_buckets: bool = Field(
        False,
        description="make each batch of texts of like length, which cuts padding; needs the "
        "lengths that `python -m shards lengths DIR` writes",
    )
    workers: Annotated[int, Mark.FREE] = Field(
        2, ge=0, description="loading processes a rank; 0 loads in the trainer"
    )
    crop: Annotated[tuple[float, float] | None, Mark.MUTABLE] = Field(
        (0.5, 1.0),
        description="random crop: least and greatest share of the image's area; null: centre crop",
    )
    flip: Annotated[bool, Mark.MUTABLE] = Field(
        True, description="mirror half of the images left to right"
    )
    scaled_decoding: bool = Field(
        False,
        description="let the JPEG decoder halve what a crop leaves twice the needed size: faster, "
        "pixels differ by less than 1 of 255",
    )
    text_dropout: Annotated[Probability, Mark.MUTABLE] = Field(
        0.0, description="share of the views without a text, of methods whose views have texts"
    )
    negatives: NegativesConfig | None = Field(
        None, description="hard negatives beside each sample; null: those of the batch alone"
    )
    positives: Literal["image", "caption", "label"] = Field(
        "image",
        description="id that samples share that are not negatives of each other: their "
        "image_id, their caption (where classes are written as captions), or their first label",
    )
    augment: Annotated[AugmentationConfig | None, Mark.MUTABLE] = Field(
        None, description="colours and blur of each view, for self-supervision; null: none"
    )
    max_bad_share: Annotated[float, Mark.FREE] = Field(
        0.01, ge=0, le=1, description="share of unreadable samples above which training stops"
    )
    accept: Annotated[str | None, Mark.FREE] = Field(
        None,
        description="fingerprint of changed training data that a run may resume on, as the "
        "refusal gives it; the order of samples is then another one from there on",
    )
    feature_cache: str | None = Field(
        None,
        description="folder that caches the features of encoders that are never trained, "
        "computed once for all runs; for images it needs crop: null and flip: false",
    )
    teacher: TeacherConfig | None = Field(
        None, description="model that a student learns from (kind: distilled); null: none"
    )

    @field_validator("val", "gallery", "probe_train")
    @classmethod
    def _not_empty(cls, url: str | None) -> str | None:
        if url is not None and not url.strip():
            raise ValueError("the URL is empty; name a folder of shards, or null for none")
        return url

    @field_validator("crop")
    @classmethod
    def _shares(cls, crop: tuple[float, float] | None) -> tuple[float, float] | None:
        if crop and not 0 < crop[0] <= crop[1] <= 1:
            raise ValueError(
                "write [least, greatest] share of the area, 0 < least <= greatest <= 1"
            )
        return crop

    @field_validator("train", mode="before")
    @classmethod
    def _url_alone(cls, train: Any) -> Any:
        sets = [train] if isinstance(train, str | dict) else train
        if not isinstance(sets, list | tuple):
            return sets
        return [{"url": one} if isinstance(one, str) else one for one in sets]

    @field_serializer("train")
    def _as_url(self, train: tuple[DataSetConfig, ...]) -> Any:
        alone = len(train) == 1 and train[0] == DataSetConfig(url=train[0].url)
        return train[0].url if alone else [one.model_dump(mode="json") for one in train]

    @field_validator("train")
    @classmethod
    def _weights(cls, train: tuple[DataSetConfig, ...]) -> tuple[DataSetConfig, ...]:
        if not all(one.url.strip() for one in train):
            raise ValueError("a URL is empty; name a folder of shards, or s3://BUCKET/FOLDER")
        if len({one.weight is None for one in train}) > 1:
            raise ValueError("give every data set a weight, or none")
        return train

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.lanes and self.batch_size % self.lanes:
            near = nearest_divisors(self.batch_size, self.lanes)
            raise ValueError(
                f"lanes ({self.lanes}) must divide batch_size ({self.batch_size}); "
                f"nearest lanes: {near}"
            )
        if self.positives != "image" and any(one.duplicates for one in self.train):
            raise ValueError(
                f"duplicates are of images, and positives are those of the same {self.positives}; "
                "remove one of the two"
            )
        without = [one.url for one in self.train if one.mined is None]
        asked = self.negatives is not None and self.negatives.mined
        if asked and without:
            raise ValueError(
                f"negatives: mined items need `mined` of each data set, which {without[0]} has "
                "not; write train: [{url: URL, mined: TABLE}]"
            )
        if not asked and len(without) < len(self.train):
            raise ValueError(
                "train: nothing is taken from `mined`; write negatives: {mined_texts: 1} or "
                "{mined_images: 1}, or remove it"
            )
        schemes = [one.kind for one in self.access]
        if len(schemes) > len(set(schemes)):
            raise ValueError("`storage` has each scheme once, and s3:// is reached as `s3` says")
        return self

    @property
    def access(self) -> tuple[StorageConfig, ...]:
        """Configurations of storage, one per URL scheme."""
        return (self.s3, *self.storage)

    @property
    def urls(self) -> list[str]:
        """URLs of all shards, for training and evaluation."""
        measured = (self.val, self.gallery, self.probe_train)
        return [*(one.url for one in self.train), *filter(None, measured)]

    @property
    def keep_lists(self) -> list[str]:
        """URLs of the keep-lists of training data sets."""
        return [one.keep for one in self.train if one.keep is not None]

    @property
    def num_lanes(self) -> int:
        """Lanes of the plan: the recipe's, or the batch size halved until it is at most 256."""
        lanes = self.lanes or self.batch_size
        while not self.lanes and lanes > 256 and lanes % 2 == 0:
            lanes //= 2
        return lanes


def nearest_divisors(number: int, wanted: int) -> str:
    """Return the divisors of `number` nearest to `wanted`, such as `16 or 32`."""
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    below = [d for d in divisors if d < wanted][-1:]
    above = [d for d in divisors if d > wanted][:1]
    return " or ".join(map(str, below + above))
