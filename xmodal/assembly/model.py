"""Trained models in Python: `xmodal.load(RUN)`, embeddings and scores."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice, zip_longest
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from xmodal.assembly.build import load_method
from xmodal.assembly.data import evaluation_transform
from xmodal.assembly.folders import load_folder
from xmodal.assembly.inputs import (
    Picture,
    check_batch_size,
    check_embeddings,
    read_features,
    read_pictures,
    read_texts,
)
from xmodal.assembly.model_source import is_folder_of_model
from xmodal.assembly.recipe import Recipe, load_recipe
from xmodal.assembly.width import cut_to_width
from xmodal.components.plugins import import_plugins
from xmodal.data.batch import Batch
from xmodal.data.tokens import CaptionTokenizer
from xmodal.errors import UserError
from xmodal.evaluation.embedding import class_prototypes, encode_images, in_evaluation
from xmodal.methods.clip import ClipConfig
from xmodal.methods.method import Method
from xmodal.models.adapter_files import save_adapter
from xmodal.models.adapters import adapted_encoders
from xmodal.runs.averages import Weights
from xmodal.runs.run import Run

T = TypeVar("T")
Images = Picture | Iterable[Picture] | Tensor
DEFAULT_TEMPLATES = ("a photo of a {}.",)


def load(
    run: str | Path,
    *,
    checkpoint: str = "latest",
    weights: Weights | None = None,
    width: int | None = None,
    device: str | torch.device | None = None,
    plugins: Sequence[str] = (),
) -> "Model":
    """Load the model of a run folder, of an exported folder, or of one that xmodal can begin with
    (open_clip, transformers, sentence-transformers, big_vision), in evaluation mode.

    No hub is asked, unless the name says so (`hf-hub:openai/clip-vit-base-patch32`), and no global
    random state changes. Of a run, `checkpoint` is `latest`, `best` or `step-N`, and `weights` are
    `averaged` or `trained`, by default the averaged ones where the checkpoint has them (`ema`,
    schedule-free optimisers). `width` cuts embeddings to so many of their first numbers, which
    `objective: {kind: matryoshka}` trains for it. `device` is the GPU by default where there is
    one, else the CPU.
    `plugins` are modules to import: a run that was trained with plugins needs them, unless they are
    installed as such or imported already. Raises `UserError` where there is no such run or
    checkpoint, or it is damaged.
    """
    import_plugins(plugins)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with torch.random.fork_rng(devices=[]):
        if not is_folder_of_model(run):
            recipe, opened = load_recipe(run), Run(run)
            folder = opened.find_checkpoint(checkpoint)
            method, tokenizer, loaded = load_method(recipe, opened, folder, place, weights)
            return _model(method, recipe, tokenizer, place, width, loaded)
        if checkpoint != "latest" or weights:
            raise UserError(f"{run} is no run folder: it has no checkpoint or weights to choose")
        return _model(*load_folder(run, place), place, width)


def _model(
    method: Method,
    recipe: Recipe,
    tokenizer: CaptionTokenizer,
    device: torch.device,
    width: int | None,
    weights: Weights = "trained",
) -> "Model":
    if width is None:
        return Model(method.eval(), recipe, tokenizer, device, weights)
    left = cut_to_width(method, recipe, width)
    assert isinstance(recipe.method, ClipConfig)
    whole = recipe.method.embedding
    cut = (width, whole) if width < whole else None
    return Model(method.eval(), left, tokenizer, device, weights, cut)


class Model:
    """A trained method, with its tokenizer and its preprocessing of images.

    Embeddings are float32 tensors on the CPU: (n, dim), or (n, K, dim) for a method with K
    embeddings per item (`pvse`). Every vector of xmodal's own methods has length 1.
    """

    def __init__(
        self,
        method: Method,
        recipe: Recipe,
        tokenizer: CaptionTokenizer,
        device: torch.device,
        weights: Weights = "trained",
        cut: tuple[int, int] | None = None,
    ) -> None:
        self.method, self.recipe, self.tokenizer, self.device = method, recipe, tokenizer, device
        self.cut = cut  # how many numbers of embeddings are left, the first ones, of how many
        self.weights = weights  # of the checkpoint: averaged or trained
        self.transform = evaluation_transform(recipe)

    def encode_images(
        self, images: Images, *, batch_size: int = 256, progress: bool = False
    ) -> Tensor:
        """Return embeddings of images, preprocessed as in evaluation.

        `images` is one image, an iterable of images, or a tensor (n, 3, height, width). An image is
        a path, a PIL image, encoded bytes, or uint8 pixels: an array (height, width, 3) or a tensor
        (3, height, width). A model that was trained on features takes features, (n, …). `progress`
        shows a bar. Raises `UserError` for an image that cannot be read.
        """
        return self._encode(self._image_batches(images, batch_size), self._images, progress)

    def encode_texts(
        self, texts: str | Iterable[str], *, batch_size: int = 256, progress: bool = False
    ) -> Tensor:
        """Return embeddings of texts, truncated to the context that the model was trained with.

        A model that was trained on features takes features, (n, …). Raises `UserError` for a method
        that does not embed texts.
        """
        self._check_texts("encode_texts")
        return self._encode(self._text_batches(texts, batch_size), self._texts, progress)

    def encode_queries(
        self,
        images: Images,
        modifications: str | Iterable[str],
        *,
        batch_size: int = 256,
        progress: bool = False,
    ) -> Tensor:
        """Return embeddings of composed queries, (n, dim): each image with its modification.

        Raises `UserError` for a method without composed queries, and for unequal numbers.
        """
        if not self.method.contents.composed:
            raise UserError(
                f"encode_queries: {self.recipe.method.kind} composes no queries; use encode_images"
            )
        batches = self._query_batches(images, modifications, batch_size)
        return self._encode(batches, lambda batch: self.method.encode(batch).queries, progress)

    def score(self, queries: Tensor, gallery: Tensor) -> Tensor:
        """Return the method's score of every query with every item of the gallery, (a, b).

        `queries` (a, …) and `gallery` (b, …) are embeddings. A learned score (`uncsm`) takes images
        first, then texts. Raises `UserError` for shapes that do not fit each other.
        """
        check_embeddings(queries, gallery, sets=self.method.scores_sets)
        with self._inference():
            scores = self.method.score(
                queries.to(self.device, torch.float32), gallery.to(self.device, torch.float32)
            )
        return scores.float().cpu()

    def similarity(self, images: Images, texts: str | Iterable[str]) -> Tensor:
        """Return the score of every image with every text, (images, texts).

        Raises `UserError` for a method that does not embed texts.
        """
        self._check_texts("similarity")
        return self.score(self.encode_images(images), self.encode_texts(texts))

    def classify(
        self,
        images: Images,
        names: str | Iterable[str],
        templates: str | Iterable[str] = DEFAULT_TEMPLATES,
    ) -> Tensor:
        """Return the score of every image with every class, (images, names).

        Each name is put in place of `{}` in each of `templates`. The mean of the embeddings of
        these texts represents the class (Radford et al. 2021, section 3.1.4). The class of the
        highest score is the predicted one: `names[scores[i].argmax()]`. Raises `UserError` for a
        method that does not embed texts.
        """
        self._check_texts("classify")
        if self.recipe.method.text.reads_features:
            raise UserError(
                "classify: the model was trained on features of texts and cannot encode names; "
                "use score(images, classes) with embeddings of your own texts' features"
            )
        names, templates = list(read_texts(names, "name")), list(read_texts(templates, "template"))
        if not names or not templates:
            raise UserError("classify: there must be at least one name and one template")
        for template in templates:
            if "{}" not in template:
                raise UserError(f"template {template!r} has no {{}}, the place of a class's name")
        with self._inference():
            classes = class_prototypes(
                self.method, names, templates, self.tokenizer, 256, self.device
            )
        return self.score(self.encode_images(images), classes)

    def save_adapters(self, folder: str | Path) -> list[Path]:
        """Write the adapters (LoRA) of each encoder into `folder`/image and /text; return these.

        They are in the form of peft, by the names of the encoder's own library. Raises `UserError`
        where the model has none, or a folder exists.
        """
        adapted = adapted_encoders(self.method)
        if not adapted:
            raise UserError(
                "the model has no adapters: train one with method.image.lora or method.text.lora, "
                "as the recipe lora_clip does"
            )
        folders = {Path(folder) / name.split(".")[0]: one for name, one in adapted.items()}
        for place in folders:
            if place.exists():
                raise UserError(f"{place} exists; name another folder for the adapters")
        for place, encoder in folders.items():
            save_adapter(encoder, place)
        return list(folders)

    def _check_texts(self, call: str) -> None:
        """Raise `UserError` where the method does not embed texts by themselves."""
        contents, kind = self.method.contents, self.recipe.method.kind
        if contents.composed:
            raise UserError(
                f"{call}: {kind} reads texts only as modifications of images; use encode_queries, "
                "encode_images for the gallery, and score"
            )
        if contents.views > 1:
            raise UserError(
                f"{call}: {kind} compares images with images and embeds no texts; use "
                "encode_images and score"
            )

    def _images(self, batch: Batch) -> Tensor:
        return encode_images(self.method, batch)

    def _texts(self, batch: Batch) -> Tensor:
        embeddings: Tensor = self.method.encode(batch).texts
        return embeddings

    def _image_batches(self, images: Images, batch_size: int) -> Iterator[Batch]:
        check_batch_size(batch_size)
        encoder = self.recipe.method.image
        if encoder.reads_features:
            rows = read_features(images, encoder.features, "images")
            yield from (Batch(image_features=part) for part in rows.split(batch_size))
            return
        squares = read_pictures(images, lambda one: self.transform(one, np.random.default_rng(0)))
        yield from (Batch(images=torch.stack(part)) for part in _chunks(squares, batch_size))

    def _text_batches(self, texts: str | Iterable[str], batch_size: int) -> Iterator[Batch]:
        check_batch_size(batch_size)
        encoder = self.recipe.method.text
        if encoder.reads_features:
            rows = read_features(texts, encoder.features, "texts")
            yield from (Batch(text_features=part) for part in rows.split(batch_size))
            return
        for part in _chunks(read_texts(texts, "text"), batch_size):
            tokens, mask = self.tokenizer(part)
            yield Batch(tokens=tokens, token_mask=mask)

    def _query_batches(
        self, images: Images, modifications: str | Iterable[str], batch_size: int
    ) -> Iterator[Batch]:
        sources = self._image_batches(images, batch_size)
        changes = self._text_batches(modifications, batch_size)
        for source, change in zip_longest(sources, changes):
            if source is None or change is None or source.size != change.size:
                raise UserError("there must be as many modifications as images")
            yield source.with_texts(change)

    def _encode(
        self, batches: Iterator[Batch], embed: Callable[[Batch], Tensor], progress: bool
    ) -> Tensor:
        if progress:
            batches = _shown(batches)
        with self._inference():
            parts = [embed(batch.to(self.device)).float().cpu() for batch in batches]
        if not parts:
            raise UserError("there is nothing to encode")
        return torch.cat(parts)

    def _inference(self) -> AbstractContextManager[None]:
        return in_evaluation(self.method)


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part


def _shown(batches: Iterator[Batch]) -> Iterator[Batch]:
    from rich.progress import track

    from xmodal.terminal import console

    yield from track(batches, description="encoding", console=console())
