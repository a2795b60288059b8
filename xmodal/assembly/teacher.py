"""Embeddings by a teacher: feature shards that training reads beside the samples.

A sample of them has `KEY.image.npy` (views, dim), a row for each of `data.teacher.views`
augmentations of its image, and `KEY.text.npy` (captions, dim), all of length 1 in float16. Their
folder is named by a digest of the teacher, the data and the augmentations.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from xmodal.assembly.feature_encoding import npy
from xmodal.assembly.feature_shards import Encode, Members, feature_shards
from xmodal.assembly.model import Model
from xmodal.assembly.model_digest import model_digest
from xmodal.assembly.model_source import find_model
from xmodal.assembly.recipe import Recipe
from xmodal.atomic_files import write_atomically
from xmodal.data.batch import Batch, BatchSpec, Fault
from xmodal.data.config import DataConfig
from xmodal.data.decode import BadSample, open_image
from xmodal.data.manifest import Manifest
from xmodal.data.numbered_views import NumberedViews
from xmodal.data.reader import SampleReader
from xmodal.data.samples import RawSample
from xmodal.data.taught_reader import TaughtReader
from xmodal.data.teacher import TeacherConfig
from xmodal.data.transforms import ImageTransform
from xmodal.errors import UserError
from xmodal.evaluation.embedding import encode_images, in_evaluation
from xmodal.runs.progress import Progress
from xmodal.runs.run import Run
from xmodal.small_files import read_small

NAME = "teacher.json"  # in a run folder: the digest of its teacher


def check_teacher(recipe: Recipe, contents: BatchSpec) -> None:
    """Raise `UserError` where a recipe's teacher does not fit its method and its data."""
    data, kind = recipe.data, recipe.method.kind
    if not contents.teacher:
        if data.teacher:
            raise UserError(
                f"data.teacher is for methods that learn from one (kind: distilled), and {kind} "
                "does not: remove it"
            )
        return
    if not data.teacher:
        raise UserError(
            f"data.teacher is missing: {kind} learns from the embeddings of a model; name it, as "
            "{source: RUN, features: FOLDER}"
        )
    if data.feature_cache or recipe.method.image.reads_features:
        raise UserError(
            "data.teacher: its embeddings are those of images and captions, and training reads "
            "features in their place; use shards of images, and feature_cache: null"
        )
    if any(one.texts for one in data.train):
        raise UserError(
            "data.teacher: its embeddings are those of `captions`, but `texts` of data.train draw "
            "from other keys of the JSON; remove one of the two"
        )
    if data.teacher.views > 1 and not (data.crop or data.flip or data.augment):
        raise UserError(
            f"data.teacher.views={data.teacher.views}, but all views of an image are alike: "
            "data.crop, flip and augment are off; write views: 1"
        )


@dataclass(frozen=True)
class Teacher:
    """A model that students learn from, and the views of images that it embeds."""

    model: Model
    views: NumberedViews
    transform: ImageTransform

    @classmethod
    def of(cls, recipe: Recipe, contents: BatchSpec, device: torch.device) -> "Teacher | None":
        """Load the teacher of a recipe, if it has one.

        Raises `UserError` where it does not embed images and texts in as many dimensions as the
        method reads.
        """
        config, data = recipe.data.teacher, recipe.data
        if config is None:
            return None
        model = _load(config, device)
        augment = data.augment.build() if data.augment else None
        transform = replace(model.transform, crop=data.crop, flip=data.flip, augment=augment)
        teacher = cls(model, NumberedViews(config.seed, config.views), transform)
        width = teacher.texts(["a"]).shape[-1]
        if width != contents.teacher:
            raise UserError(
                f"method.teacher_embedding={contents.teacher}, but the teacher {config.source} "
                f"embeds in {width} dimensions; write method.teacher_embedding={width}"
            )
        return teacher

    @cached_property
    def digest(self) -> str:
        """Digest of the teacher: its settings, tokenizer and weights."""
        return model_digest(self.model, without_defaults=True)

    def features(
        self, manifest: Manifest, data: DataConfig, say: Callable[[str], None]
    ) -> Manifest:
        """Return the feature shards of a training set; missing ones are computed.

        Raises `UserError` where what lies in their folder does not belong to the set.
        """
        assert data.teacher
        folder = Path(data.teacher.features) / self._key(manifest, data)

        def encoder(_: SampleReader, __: range) -> Encode:
            return self.encode

        found = feature_shards(folder, manifest, encoder, max_bad_share=data.max_bad_share, say=say)
        TaughtReader(manifest, found)[0]
        return found

    def encode(self, samples: Sequence[RawSample]) -> list[Members | Fault]:
        """Return the files of each sample, or its fault."""
        read = [self._read(sample) for sample in samples]
        parts = [one for one in read if not isinstance(one, Fault)]
        if not parts:
            return [one for one in read if isinstance(one, Fault)]
        images = self.images(torch.cat([pixels for pixels, _ in parts]))
        texts = self.texts([caption for _, captions in parts for caption in captions])
        of_images = iter(images.split(self.views.count))
        of_texts = iter(texts.split([len(captions) for _, captions in parts]))
        return [
            one
            if isinstance(one, Fault)
            else {"image.npy": npy(next(of_images)), "text.npy": npy(next(of_texts))}
            for one in read
        ]

    def images(self, pixels: Tensor) -> Tensor:
        """Return the embeddings of images (n, 3, size, size) uint8, (n, dim) float16."""
        batch = Batch(images=pixels).to(self.model.device)
        with in_evaluation(self.model.method):
            return _stored(encode_images(self.model.method, batch))

    def texts(self, captions: list[str]) -> Tensor:
        """Return the embeddings of captions, (n, dim) float16."""
        tokens, mask = self.model.tokenizer(captions)
        batch = Batch(tokens=tokens, token_mask=mask).to(self.model.device)
        with in_evaluation(self.model.method):
            return _stored(self.model.method.encode(batch).texts)

    def _read(self, sample: RawSample) -> tuple[Tensor, list[str]] | Fault:
        """Return all views of a sample's image, (views, 3, size, size), and its captions."""
        try:
            image, captions = open_image(sample.image()), sample.captions()
            views = [
                self.transform(image, self.views.generator(sample, number))
                for number in range(self.views.count)
            ]
        except BadSample as cause:
            return Fault(sample.shard, sample.key, str(cause))
        return torch.stack(views), captions

    def _key(self, manifest: Manifest, data: DataConfig) -> str:
        """Return the digest of all that the embeddings of a set depend on."""
        settings = {
            "teacher": self.digest,
            "data": manifest.fingerprint,
            "views": [self.views.seed, self.views.count],
            "crop": data.crop,
            "flip": data.flip,
            "augment": data.augment.model_dump(mode="json") if data.augment else None,
        }
        text = json.dumps(settings, sort_keys=True).encode()
        return hashlib.blake2b(text, digest_size=8).hexdigest()


def record_teacher(run: Run, teacher: Teacher) -> None:
    """Write into a run folder which teacher it learns from."""
    write_atomically(run.path / NAME, json.dumps({"digest": teacher.digest}) + "\n")


def check_same_teacher(run: Run, teacher: Teacher, progress: Progress) -> None:
    """Raise `UserError` where a run that has begun learned from a teacher of other weights."""
    path = run.path / NAME
    if progress.step and path.is_file() and teacher.digest not in read_small(path).decode():
        raise UserError(
            f"data.teacher has other weights than up to step {progress.step} of run={run.path}; "
            "restore its checkpoint, or name another run=DIR"
        )


def _load(config: TeacherConfig, device: torch.device) -> Model:
    """Load a model that has a vector for an image and for a text; `UserError` if there is none."""
    try:
        model = find_model(config.source, config.checkpoint, None).load(device)
    except UserError as error:
        raise UserError(f"data.teacher.source: {error}") from error
    if fault := reason_against(model):
        raise UserError(
            f"data.teacher.source={config.source} cannot teach: {fault}; name another model"
        )
    return model


def reason_against(model: Model) -> str:
    """Return why a model has no vector for an image and for a text; "" where it has."""
    method, config = model.method, model.recipe.method
    contents = method.contents
    if contents.composed or (contents.views, contents.captions) != (1, 1):
        return f"{config.kind} does not embed images and texts each by itself"
    if config.image.reads_features or config.text.reads_features:
        return "it was trained on features, and reads no images"
    if method.learned_score:
        return f"{config.kind} scores with a network, not by embeddings"
    if model.encode_texts("a").ndim > 2:
        return f"{config.kind} has several embeddings of an item"
    return ""


def _stored(embeddings: Tensor) -> Tensor:
    return F.normalize(embeddings.float(), dim=-1).half().cpu()
