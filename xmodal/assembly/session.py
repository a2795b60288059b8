"""One run from its recipe to its results: what `launch/train.py` does."""

from collections.abc import Sequence

from xmodal.activity import activity
from xmodal.assembly.advice import lines_before_training
from xmodal.assembly.build import build_method, keep_architecture
from xmodal.assembly.checks import (
    check_batch_norm,
    check_best,
    check_labels,
    check_measurable,
    check_method,
    check_sample_spec,
    check_sizes,
    check_whole,
)
from xmodal.assembly.data_record import DataRecord
from xmodal.assembly.evaluation import measure
from xmodal.assembly.feature_cache import cached_features
from xmodal.assembly.finished import finished_lines, is_finished
from xmodal.assembly.plugin_record import changed_plugins, write_plugins
from xmodal.assembly.recipe import Recipe, load_recipe
from xmodal.assembly.text_tower import load_text_tower, replaced, with_text_tower
from xmodal.assembly.vocabulary import load_tokenizer, settle_tokenizer
from xmodal.data.batch import GALLERY, BatchSpec
from xmodal.data.loader import DataSet, TrainingSet
from xmodal.data.manifest import Manifest, read_manifest
from xmodal.data.mixture import Mixture
from xmodal.data.reader import SampleReader
from xmodal.data.sample_spec import infer_sample_spec
from xmodal.data.transforms import ImageTransform
from xmodal.distributed.collectives import barrier
from xmodal.distributed.environment import Environment
from xmodal.evaluation.protocols.registry import check_protocols, metric_names, resolve
from xmodal.evaluation.report.examples import load_examples
from xmodal.evaluation.report.measured import Measured, describe
from xmodal.evaluation.report.results import write_results
from xmodal.evaluation.report.run_report import retrieval_sheet
from xmodal.evaluation.retrieval import sets_to_measure
from xmodal.methods.method import Method
from xmodal.runs.checkpoints.integrity import recover
from xmodal.runs.checkpoints.load import read_progress
from xmodal.runs.checkpoints.mirror import open_mirror
from xmodal.runs.lock import hold
from xmodal.runs.metrics_file import drop_metrics_after
from xmodal.runs.recipe_file import dump_recipe
from xmodal.runs.restarts import check_restarts
from xmodal.runs.run import Run
from xmodal.training.log import TrainingLog
from xmodal.training.requirements import check_known
from xmodal.training.timeline import StageSpan
from xmodal.training.trainer import Report, Trainer


class Session:
    """A recipe, its run folder, its shards and this process's place in the job, put together.

    `report` is called on every rank after each evaluation. Raises `UserError` for all that can be
    known to be wrong before training.
    """

    def __init__(
        self, recipe: Recipe, environment: Environment, report: Report | None = None
    ) -> None:
        self.report = report
        given, recipe = recipe, with_text_tower(recipe)
        self.replaced = replaced(given, recipe)
        self.recipe, self.environment = recipe, environment
        self.run = Run(recipe.run)
        check_sizes(recipe, environment.ranks)
        self.run.check(recipe, has_mirror=recipe.checkpoints.mirror is not None)
        self.mirror = open_mirror(self.run, recipe, recipe.checkpoints.mirror, recipe.data.access)
        data = recipe.data
        with activity("reading the indices of the shards"):
            self.train_shards = [
                read_manifest(one.url, data.access, data.cache) for one in data.train
            ]
            self.val_shards, self.gallery_shards = (
                read_manifest(url, data.access, data.cache) if url else None
                for url in (data.val, data.gallery)
            )
        for shards in self._all_shards():
            check_whole(shards, data.max_bad_share)
        for shards in filter(None, (self.val_shards, self.gallery_shards)):
            check_measurable(shards, environment.ranks)
        self.mixture = mixture(recipe, self.train_shards)
        method = check_method(recipe)
        check_batch_norm(recipe, method, environment.ranks)
        self.contents = contents = method.contents
        for one in data_sets(recipe, self.train_shards):
            kind = infer_sample_spec(one.reader, one.texts, captions=contents.captions)
            check_sample_spec(recipe, one.reader.manifest.url, kind, contents, local=method.local)
            if contents.labels or data.positives == "label":
                who = recipe.method.kind if contents.labels else "data.positives=label"
                check_labels(one.reader, who)
        protocols = self._protocols(method) if self.val_shards else []
        for stage in recipe.stages:
            check_known(stage, method, protocols)
        if environment.is_main:
            self.held = hold(self.run.path, f"run={recipe.run}")
        with activity(f"checking the checkpoints of {self.run.path}"):
            self.recovered = recover(self.run, self.mirror.restore if self.mirror else None)
        check_restarts(self.run, recipe.training.restarts)
        self.progress = read_progress(self.run)
        record = self._data_record()
        resumed = record.resume(self.run.path, recipe, self.progress)
        self.recovered += [*resumed.lines, *changed_plugins(self.run.path)]
        self.timeline = recipe.timeline(resumed.epoch)
        self.finished = is_finished(self.run, recipe, self.timeline, self.progress)
        barrier()
        if environment.is_main:
            self._settle(record)
        barrier()
        self.tokenizer = load_tokenizer(recipe.method, self.run.tokenizer)

    def _settle(self, record: DataRecord) -> None:
        """Make of the run folder what training, or a report of a finished run, starts from."""
        # What a finished run was trained by stays in its recipe.yaml, whatever is asked for now.
        if not (self.finished and self.run.recipe.is_file()):
            self.run.create(self.recipe)
            record.write(self.run.path)
            write_plugins(self.run.path)
        self.run.pin()
        keep_last = load_recipe(self.run.path).checkpoints.keep_last
        self.run.tidy(keep_last, self.progress.best_step)
        with activity("preparing the tokenizer"):
            self.recovered += settle_tokenizer(self.run, self.recipe.method, self.train_shards)
            keep_architecture(self.recipe.method, self.run.path)

    def _protocols(self, method: Method) -> Sequence[str]:
        """Return what data.val is measured by, once nothing is known to be wrong with it."""
        recipe, shards = self.recipe, self.val_shards
        assert shards is not None
        self._check_sample_spec(shards, method, method.contents)
        if self.gallery_shards:
            self._check_sample_spec(self.gallery_shards, method, GALLERY)
        protocols = resolve(recipe.evaluation.protocols, method.contents, shards.relevance)
        gallery = SampleReader(self.gallery_shards) if self.gallery_shards else None
        check_protocols(protocols, method, SampleReader(shards), shards.relevance, gallery)
        check_best(recipe.checkpoints.best, metric_names(protocols, method))
        return protocols

    def _check_sample_spec(self, shards: Manifest, method: Method, contents: BatchSpec) -> None:
        kind = infer_sample_spec(SampleReader(shards), captions=contents.captions)
        check_sample_spec(self.recipe, shards.url, kind, contents, local=method.local)

    def _data_record(self) -> DataRecord:
        others = {"data.val": self.val_shards, "data.gallery": self.gallery_shards}
        sets = {role: [shards] if shards else [] for role, shards in others.items()}
        return DataRecord({"data.train": self.train_shards, **sets})

    def _all_shards(self) -> list[Manifest]:
        others = (self.val_shards, self.gallery_shards)
        return [*self.train_shards, *(shards for shards in others if shards)]

    def train(self) -> None:
        """Train to the end; the results of the last evaluation are in the run folder."""
        speaks = self.environment.is_main
        if self.finished:
            lines = self._finished_lines()
            if speaks:
                print(*lines, sep="\n")
            return
        if speaks:
            log_every = self.recipe.training.log_every
            with self.run.writing(self.run.metrics):
                self.recovered += drop_metrics_after(
                    self.run.metrics, self.progress.step, log_every
                )
        with TrainingLog(
            self.run, first_step=self.progress.step, steps=self.timeline.total, speaks=speaks
        ) as self.log:
            for line in [*self._notices(), *(self.mirror.catch_up() if self.mirror else [])]:
                self.log.say(line)
            if speaks and not self.progress.step:
                with activity("surveying the data"):
                    self._advise()
            captions = self.contents.captions
            train_shards = [self._features_of(shards, captions) for shards in self.train_shards]
            if self.val_shards:
                self.val_features = self._features_of(self.val_shards, captions)
            self.gallery_features = None
            if self.gallery_shards:
                self.gallery_features = self._features_of(self.gallery_shards, GALLERY.captions)
            Trainer(
                self.recipe.data,
                self.recipe.training,
                self.recipe.checkpoints,
                self.run,
                self.environment,
                self._training_set(train_shards),
                self._build,
                self._evaluate if self.val_shards else None,
                self.log,
                self.progress,
                self.timeline,
                self.mirror,
                self.report,
                freeze_batch_norm=self.recipe.method.image.freezes_batch_norm,
            ).train()

    def _advise(self) -> None:
        lines = lines_before_training(
            self.recipe,
            self.contents,
            self.timeline,
            self.train_shards,
            self.val_shards,
            self.tokenizer,
        )
        for line in lines:
            self.log.say(line)

    def _finished_lines(self) -> list[str]:
        """Send what a mirror lacks of a finished run; return what there is to report of it."""
        lines = [*self.recovered, *finished_lines(self.run, self.recipe, self.timeline.total)]
        if self.mirror:
            lines += [*self.mirror.catch_up(), *self.mirror.finish()]
        return lines

    def _build(self) -> Method:
        method = build_method(self.recipe, self.tokenizer, self.environment.device)
        load_text_tower(method, self.recipe)
        return method

    def _features_of(self, shards: Manifest, captions: int) -> Manifest:
        """Return the shards to read: those of cached features where the recipe wants them."""
        if self.recipe.data.feature_cache is None:
            return shards
        return cached_features(
            self._build(),
            shards,
            self.tokenizer,
            self.recipe,
            captions=captions,
            device=self.environment.device,
            say=self.log.say,
        )

    def _training_set(self, shards: Sequence[Manifest]) -> TrainingSet:
        data = self.recipe.data
        transform = ImageTransform(
            self.recipe.method.image.size,
            data.crop,
            data.flip,
            data.scaled_decoding,
            data.augment.build() if data.augment else None,
        )
        return TrainingSet(
            data_sets(self.recipe, shards),
            self.mixture,
            transform,
            self.tokenizer,
            seed=self.recipe.training.seed,
            contents=self.contents,
            text_dropout=data.text_dropout,
            positives=data.positives,
        )

    def _notices(self) -> list[str]:
        """Return what is to be said of the recipe and the data before training."""
        lines = [line for shards in self._all_shards() for line in shards.notices]
        lines = [*self.recovered, *self._resuming(), *self.replaced, *lines]
        if len(self.train_shards) > 1:
            lines += [
                f"{one.url}: {shards.num_samples:,} samples, {count} of every "
                f"{self.mixture.lanes} ({count / self.mixture.lanes:.1%})"
                for one, shards, count in zip(
                    self.recipe.data.train, self.train_shards, self.mixture.counts, strict=True
                )
            ]
        return lines

    def _resuming(self) -> list[str]:
        step, total = self.progress.step, self.timeline.total
        folder = self.run.checkpoint(step)
        return [f"Resuming from step-{step} of {total} ({folder})"] if 0 < step < total else []

    def _evaluate(self, method: Method, step: int, span: StageSpan) -> dict[str, float]:
        assert self.val_shards is not None
        dataset, gallery = sets_to_measure(
            self.contents,
            self.val_features,
            self.gallery_features,
            self.recipe.method.image.size,
            self.tokenizer,
        )
        relevance, device = self.val_shards.relevance, self.environment.device
        retrieval = measure(self.recipe, method, dataset, gallery, relevance, None, device)
        for line in retrieval.fault_lines():
            self.log.say(line)
        if self.environment.is_main:
            # What features were computed of is what there is to see.
            searched = SampleReader(self.gallery_shards) if self.gallery_shards else None
            samples = SampleReader(self.val_shards)
            examples = load_examples(retrieval.examples, samples, searched)
            self.log.evaluation(step, span, retrieval.metrics, retrieval_sheet(examples))
            if step == self.timeline.total:
                write_results(
                    self.run.path,
                    self.run.path.name,
                    retrieval.metrics,
                    examples,
                    self._measured(step),
                    recipe=dump_recipe(self.recipe),
                    history=self.run.history(),
                )
        return retrieval.metrics

    def _measured(self, step: int) -> Measured:
        """Return the description of an evaluation after a step."""
        shards, config = self.val_shards, self.recipe.evaluation
        assert shards is not None
        names = resolve(config.protocols, self.contents, shards.relevance)
        checkpoint = self.run.checkpoint(step).name
        return describe(checkpoint, None, shards, self.gallery_shards, names, config)


def data_sets(recipe: Recipe, shards: Sequence[Manifest]) -> list[DataSet]:
    """Return a recipe's data sets as their samples are to be used."""
    return [
        DataSet(SampleReader(manifest), one.texts, one.min_side, one.max_pixels)
        for manifest, one in zip(shards, recipe.data.train, strict=True)
    ]


def mixture(recipe: Recipe, shards: Sequence[Manifest]) -> Mixture:
    """Return the order in which a recipe's data sets are trained on."""
    return Mixture(
        [[shard.num_samples for shard in manifest.shards] for manifest in shards],
        [
            one.weight or manifest.num_samples
            for one, manifest in zip(recipe.data.train, shards, strict=True)
        ],
        seed=recipe.training.seed,
        lanes=recipe.data.num_lanes,
        window=recipe.data.window,
    )
