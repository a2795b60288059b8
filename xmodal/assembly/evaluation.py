"""Evaluation of a model: its method, its shards, and the folder for its results."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from xmodal.assembly.checks import check_sample_spec
from xmodal.assembly.data import Shards, evaluation_transform
from xmodal.assembly.model import Model
from xmodal.assembly.model_digest import model_digest
from xmodal.assembly.model_source import ModelSource
from xmodal.assembly.recipe import Recipe
from xmodal.data.batch import GALLERY
from xmodal.data.composed import ComposedSet
from xmodal.data.config import DataConfig
from xmodal.data.evaluation import EvaluationSet
from xmodal.data.manifest import Manifest, read_manifest
from xmodal.data.sample_spec import evaluated_parts
from xmodal.data.tokens import CaptionTokenizer
from xmodal.errors import UserError
from xmodal.evaluation.protocols.registry import needs_training_set, resolve
from xmodal.evaluation.report.examples import load_examples
from xmodal.evaluation.report.measured import Measured, describe, place
from xmodal.evaluation.report.results import (
    check_folder,
    check_writable,
    read_results,
    write_results,
)
from xmodal.evaluation.retrieval import (
    Retrieval,
    answer_cirr,
    evaluate_retrieval,
    images_to_fit_on,
    sets_to_measure,
)
from xmodal.methods.method import Method
from xmodal.runs.averages import read_averages
from xmodal.runs.checkpoints.integrity import digest_of
from xmodal.runs.recipe_file import dump_recipe
from xmodal.runs.run import read_state


@dataclass(frozen=True)
class EvaluationRequest:
    """Options of an evaluation; None stands for the value of the recipe.

    Attributes:
        data: URL of the shards to measure on.
        gallery: URL of the shards that composed queries are searched in.
        probe_train: URL of the labelled shards that probes are fitted on.
        protocols: names.
        output: folder for the results.
        submission: folder for the files of CIRR's server.
    """

    data: str | None = None
    gallery: str | None = None
    protocols: list[str] | None = None
    output: str | None = None
    submission: str | None = None
    probe_train: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """A model, and the sets to measure it on."""

    source: ModelSource
    request: EvaluationRequest
    model: Model
    shards: Manifest
    dataset: EvaluationSet | ComposedSet
    gallery: EvaluationSet | None
    probe_train: EvaluationSet | None  # where a protocol is fitted

    @property
    def recipe(self) -> Recipe:
        """The model's recipe."""
        return self.model.recipe

    @property
    def method(self) -> Method:
        """The model's method."""
        return self.model.method

    def measure(self, device: torch.device) -> Retrieval:
        """Return metrics and retrieved examples. All ranks call this together."""
        sets = (self.dataset, self.gallery, self.probe_train)
        return measure(self.recipe, self.method, *sets, self.shards, self.request.protocols, device)

    def answer(self, device: torch.device) -> list[Path]:
        """Write the submission to CIRR's server, on the first rank; return its files."""
        assert isinstance(self.dataset, ComposedSet)
        assert self.gallery is not None
        assert self.request.submission is not None
        return answer_cirr(
            self.method,
            self.dataset,
            self.gallery,
            self.recipe.evaluation,
            Path(self.request.submission),
            device=device,
            workers=self.recipe.data.workers,
        )

    def describe(self) -> Measured:
        """Return the description of everything that the metrics depend on."""
        gallery = self.gallery.reader.manifest if self.gallery else None
        probe_train = self.probe_train.reader.manifest if self.probe_train else None
        names = self._resolve(self.request.protocols or self.recipe.evaluation.protocols)
        source = self.source
        return describe(
            source.path.name,
            digest_of(source.path) if source.run else model_digest(self.model),
            self.shards,
            gallery,
            probe_train,
            names,
            self.recipe.evaluation,
            averaged=self.model.weights == "averaged",
            width=source.width,
        )

    def write(self, retrieval: Retrieval, measured: Measured) -> Path:
        """Write results and report into the folder that they belong in, and return it."""
        gallery = self.gallery.reader if self.gallery else None
        examples = load_examples(retrieval.examples, self.dataset.reader, gallery)
        folder, run = self.results_folder(measured), self.source.run
        ended = read_state(self.source.path).get("stopped") if run and folder == run.path else None
        write_results(
            folder,
            (run.path if run else self.source.path).name,
            retrieval.metrics,
            examples,
            measured,
            recipe=dump_recipe(self.recipe),
            history=run.history() if run else (),
            ended=ended,
            per_query=retrieval.per_query,
        )
        return folder

    def results_folder(self, measured: Measured) -> Path:
        """Return the folder of the results: the run's own for its own results.

        Raises `UserError` where it holds something else, or cannot be written in.
        """
        run, output = self.source.run, self.request.output
        if run is None:
            check_folder(Path(str(output)), measured)
            return Path(str(output))
        theirs = read_results(run.path)[1]
        is_own = self.is_runs_own(measured)
        if not output and is_own and (theirs is None or measured.of_same_data(theirs)):
            check_writable(run.path)
            return run.path
        folder = Path(output or run.path / "evaluations" / measured.name)
        check_folder(folder, measured)
        return folder

    def is_runs_own(self, measured: Measured) -> bool:
        """Return whether training measures the same: newest checkpoint, weights, data and
        protocols.
        """
        data, request, run = self.recipe.data, self.request, self.source.run
        given = (
            (request.data, data.val),
            (request.gallery, data.gallery),
            (request.probe_train, data.probe_train),
        )
        return (
            run is not None
            and self.source.width is None
            and run.latest() == self.source.path
            and (
                measured.averaged
                or not read_averages(self.source.path, self.recipe.training.zero.stage)
            )
            and all(url is None or (ours and place(url) == place(ours)) for url, ours in given)
            and set(measured.protocols) == set(self._resolve(self.recipe.evaluation.protocols))
        )

    def _resolve(self, protocols: Sequence[str] | None) -> list[str]:
        return resolve(protocols, self.method.contents, self.shards.relevance)


def load_evaluation(
    source: ModelSource, request: EvaluationRequest, device: torch.device
) -> Evaluation:
    """Load a model and its sets; raises `UserError` where they do not fit each other."""
    url, data = _data(source, request)
    shards = read_manifest(url, data.access, data.cache)
    probe_shards = _probe_shards(source.recipe, data, request)
    model = source.load(device)
    recipe, contents, given = (
        model.recipe,
        model.method.contents,
        (model.transform, model.tokenizer),
    )
    gallery_url = _gallery_url(source, data, request, composed=contents.composed)
    gallery_shards = read_manifest(gallery_url, data.access, data.cache) if gallery_url else None
    dataset, gallery = sets_to_measure(contents, shards, gallery_shards, *given)
    probe_train = images_to_fit_on(probe_shards, *given)
    for read, parts in ((dataset, contents), (gallery, GALLERY), (probe_train, GALLERY)):
        if read is not None:
            held = evaluated_parts(read.reader, parts)
            check_sample_spec(
                recipe, read.reader.manifest.url, read.kind, held, local=model.method.local
            )
    return Evaluation(source, request, model, shards, dataset, gallery, probe_train)


def _data(source: ModelSource, request: EvaluationRequest) -> tuple[str, DataConfig]:
    """Return the URL of the shards to measure on, and the settings by which shards are read."""
    if source.recipe is None:
        return str(request.data), DataConfig.model_validate({"train": request.data})
    data = source.recipe.data
    return str(data.val if request.data is None else request.data), data


def measure(
    recipe: Recipe,
    method: Method,
    dataset: EvaluationSet | ComposedSet,
    gallery: EvaluationSet | None,
    probe_train: EvaluationSet | None,
    shards: Manifest,
    protocols: Sequence[str] | None,
    device: torch.device,
) -> Retrieval:
    """Measure a method with the settings of its recipe, by `protocols` or by the recipe's own.

    `dataset` has the samples of `shards`, or their features.
    """
    return evaluate_retrieval(
        method,
        dataset,
        shards.relevance,
        recipe.evaluation,
        gallery=gallery,
        probe_train=probe_train,
        original=shards,
        protocols=protocols,
        device=device,
        workers=recipe.data.workers,
        max_bad_share=recipe.data.max_bad_share,
    )


def measure_shards(
    recipe: Recipe,
    method: Method,
    shards: Shards,
    read: Shards,
    tokenizer: CaptionTokenizer,
    device: torch.device,
) -> Retrieval:
    """Measure a method on data.val of `shards`, from `read`: the same shards, or their features."""
    assert shards.val is not None
    assert read.val is not None
    transform = evaluation_transform(recipe)
    sets = sets_to_measure(method.contents, read.val, read.gallery, transform, tokenizer)
    probe_train = images_to_fit_on(read.probe_train, transform, tokenizer)
    return measure(recipe, method, *sets, probe_train, shards.val, None, device)


def _probe_shards(
    recipe: Recipe | None, data: DataConfig, request: EvaluationRequest
) -> Manifest | None:
    """Return the shards that probes are fitted on; None where there is no such protocol."""
    own = recipe.evaluation.protocols if recipe else None
    if not needs_training_set(request.protocols or own or []):
        if request.probe_train:
            raise UserError("--probe-train is for --protocol linear-probe and knn; name one")
        return None
    url = request.probe_train or data.probe_train
    return read_manifest(url, data.access, data.cache) if url else None


def _gallery_url(
    source: ModelSource, data: DataConfig, request: EvaluationRequest, *, composed: bool
) -> str | None:
    """Return the shards that composed queries are searched in; None for other methods."""
    if not composed:
        for option in ("gallery", "submission"):
            if getattr(request, option):
                raise UserError(f"--{option} is for composed queries, and {source.source} has none")
        return None
    url = request.gallery or data.gallery
    if url is None:
        raise UserError(f"{source.source} was trained without data.gallery; give --gallery URL")
    return url
