"""Evaluation of a run's checkpoint: its method, its shards, and the folder for its results."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from xmodal.assembly.build import load_method
from xmodal.assembly.checks import check_sample_spec
from xmodal.assembly.data import Shards, evaluation_transform
from xmodal.assembly.recipe import Recipe
from xmodal.data.batch import GALLERY
from xmodal.data.composed import ComposedSet
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
from xmodal.runs.averages import Weights, read_averages
from xmodal.runs.checkpoints.integrity import digest_of
from xmodal.runs.recipe_file import dump_recipe
from xmodal.runs.run import Run, read_state


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
        weights: which of the checkpoint's; None: the averaged ones where it has them.
    """

    data: str | None = None
    gallery: str | None = None
    protocols: list[str] | None = None
    output: str | None = None
    submission: str | None = None
    weights: Weights | None = None
    probe_train: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """The method of a checkpoint, and the sets to measure it on."""

    recipe: Recipe
    run: Run
    checkpoint: Path
    request: EvaluationRequest
    method: Method
    shards: Manifest
    dataset: EvaluationSet | ComposedSet
    gallery: EvaluationSet | None
    probe_train: EvaluationSet | None  # where a protocol is fitted
    weights: Weights  # that the method has

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
        weights, config = digest_of(self.checkpoint), self.recipe.evaluation
        return describe(
            self.checkpoint.name,
            weights,
            self.shards,
            gallery,
            probe_train,
            names,
            config,
            averaged=self.weights == "averaged",
        )

    def write(self, retrieval: Retrieval, measured: Measured) -> Path:
        """Write results and report into the folder that they belong in, and return it."""
        gallery = self.gallery.reader if self.gallery else None
        examples = load_examples(retrieval.examples, self.dataset.reader, gallery)
        folder = self.results_folder(measured)
        write_results(
            folder,
            self.run.path.name,
            retrieval.metrics,
            examples,
            measured,
            recipe=dump_recipe(self.recipe),
            history=self.run.history(),
            ended=read_state(self.checkpoint).get("stopped") if folder == self.run.path else None,
            per_query=retrieval.per_query,
        )
        return folder

    def results_folder(self, measured: Measured) -> Path:
        """Return the folder of the results: the run's own for its own results.

        Raises `UserError` where it holds something else, or cannot be written in.
        """
        run, output = self.run, self.request.output
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
        data, request = self.recipe.data, self.request
        given = (
            (request.data, data.val),
            (request.gallery, data.gallery),
            (request.probe_train, data.probe_train),
        )
        return (
            self.run.latest() == self.checkpoint
            and (measured.averaged or not read_averages(self.checkpoint, self.recipe.training.zero))
            and all(url is None or (ours and place(url) == place(ours)) for url, ours in given)
            and set(measured.protocols) == set(self._resolve(self.recipe.evaluation.protocols))
        )

    def _resolve(self, protocols: Sequence[str] | None) -> list[str]:
        return resolve(protocols, self.method.contents, self.shards.relevance)


def load_evaluation(
    recipe: Recipe, run: Run, checkpoint: Path, request: EvaluationRequest, device: torch.device
) -> Evaluation:
    """Load a checkpoint and its sets; raises `UserError` where method and data do not fit."""
    data = recipe.data
    url = data.val if request.data is None else request.data
    shards = read_manifest(str(url), data.access, data.cache)
    probe_shards = _probe_shards(recipe, request)
    method, tokenizer, weights = load_method(recipe, run, checkpoint, device, request.weights)
    contents = method.contents
    gallery_url = _gallery_url(recipe, run, request, composed=contents.composed)
    gallery_shards = read_manifest(gallery_url, data.access, data.cache) if gallery_url else None
    transform = evaluation_transform(recipe)
    dataset, gallery = sets_to_measure(contents, shards, gallery_shards, transform, tokenizer)
    probe_train = images_to_fit_on(probe_shards, transform, tokenizer)
    for read, parts in ((dataset, contents), (gallery, GALLERY), (probe_train, GALLERY)):
        if read is not None:
            held = evaluated_parts(read.reader, parts)
            check_sample_spec(recipe, read.reader.manifest.url, read.kind, held, local=method.local)
    sets = (shards, dataset, gallery, probe_train)
    return Evaluation(recipe, run, checkpoint, request, method, *sets, weights)


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


def _probe_shards(recipe: Recipe, request: EvaluationRequest) -> Manifest | None:
    """Return the shards that probes are fitted on; None where there is no such protocol."""
    data = recipe.data
    if not needs_training_set(request.protocols or recipe.evaluation.protocols or []):
        if request.probe_train:
            raise UserError("--probe-train is for --protocol linear-probe and knn; name one")
        return None
    url = request.probe_train or data.probe_train
    return read_manifest(url, data.access, data.cache) if url else None


def _gallery_url(
    recipe: Recipe, run: Run, request: EvaluationRequest, *, composed: bool
) -> str | None:
    """Return the shards that composed queries are searched in; None for other methods."""
    if not composed:
        for option in ("gallery", "submission"):
            if getattr(request, option):
                raise UserError(f"--{option} is for composed queries, and {run.path} has none")
        return None
    url = request.gallery or recipe.data.gallery
    if url is None:
        raise UserError(f"{run.path} was trained without data.gallery; give --gallery URL")
    return url
