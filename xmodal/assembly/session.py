"""A run from its recipe to its results."""

from collections.abc import Callable
from dataclasses import replace

from xmodal.activity import activity
from xmodal.assembly.advice import lines_before_training
from xmodal.assembly.build import first_method, keep_architecture, with_vocabulary
from xmodal.assembly.checks import best_metric, check_run, check_shards, check_sizes
from xmodal.assembly.data import (
    Shards,
    data_sets,
    mixture,
    mixture_lines,
    open_shards,
    read_mined_items,
    training_set,
)
from xmodal.assembly.engine_checks import check_disks
from xmodal.assembly.feature_cache import cached_features
from xmodal.assembly.finished import finished_lines, is_finished
from xmodal.assembly.plugin_record import changed_plugins, write_plugins
from xmodal.assembly.pretrained import load_pretrained
from xmodal.assembly.recipe import Recipe, load_recipe
from xmodal.assembly.teacher import Teacher, check_same_teacher, record_teacher
from xmodal.assembly.text_tower import load_text_tower, replaced, with_text_tower
from xmodal.assembly.training_evaluation import TrainingEvaluation
from xmodal.assembly.vocabulary import load_tokenizer, settle_tokenizer
from xmodal.data.batch import GALLERY, BatchSpec
from xmodal.data.manifest import Manifest
from xmodal.data.reader import SampleReader
from xmodal.data.sample_spec import evaluated_parts
from xmodal.distributed.collectives import barrier
from xmodal.distributed.environment import Environment
from xmodal.errors import UserError
from xmodal.precision import choose_kernels, refusing_other_kernels
from xmodal.runs.checkpoints.integrity import recover
from xmodal.runs.checkpoints.load import read_progress
from xmodal.runs.checkpoints.mirror import open_mirror
from xmodal.runs.lock import acquire_run_lock
from xmodal.runs.metrics_file import drop_metrics_after
from xmodal.runs.restarts import check_restarts
from xmodal.runs.run import Run
from xmodal.training.log import TrainingLog
from xmodal.training.trainer import Report, Trainer


class Session:
    """A run on this rank: its recipe, folder, shards and place in the job.

    `report` is called on every rank after each evaluation. Raises `UserError` for all
    mistakes that can be found before training.
    """

    def __init__(
        self, recipe: Recipe, environment: Environment, report: Report | None = None
    ) -> None:
        self.recipe, self.environment, self.report = with_text_tower(recipe), environment, report
        self.lines = replaced(recipe, self.recipe)  # to be logged before training
        self._check()
        self._open_run()
        self._settle_run()

    def _check(self) -> None:
        """Open the shards, build the method and check all against each other."""
        recipe, ranks = self.recipe, self.environment.ranks
        self.run = Run(recipe.run)
        check_sizes(recipe, ranks)
        self.run.check(recipe, has_mirror=recipe.checkpoints.mirror is not None)
        self.mirror = open_mirror(self.run, recipe, recipe.checkpoints.mirror, recipe.data.access)
        self.shards = open_shards(recipe)
        check_shards(recipe, self.shards, ranks)
        self.mixture = mixture(recipe, self.shards)
        self.method = first_method(recipe, self.environment.device)
        self.mined = read_mined_items(recipe, self.shards)
        protocols = check_run(recipe, self.shards, self.method, ranks)
        self.best = best_metric(recipe, protocols, self.method)
        self.teacher = Teacher.of(recipe, self.method.contents, self.environment.device)

    def _open_run(self) -> None:
        """Lock the run folder; find out how far the run is and whether its data changed."""
        recipe, run = self.recipe, self.run
        if self.environment.is_main:
            self.lock = acquire_run_lock(run.path, f"run={recipe.run}")
        with activity(f"checking the checkpoints of {run.path}"):
            recovered = recover(run, self.mirror.restore if self.mirror else None)
        check_restarts(run, recipe.training.restarts)
        self.progress = read_progress(run)
        resumed = self.shards.record.resume(run.path, recipe, self.progress)
        if resumed.on_others and self.method.contents.numbers:
            raise UserError(
                "data.accept: data.train changed, and the objective keeps averages of its samples "
                "by their numbers, which are others now; restore it, or name another run=DIR"
            )
        self.recovered = [*recovered, *resumed.lines, *changed_plugins(run.path)]
        self.timeline = recipe.timeline(resumed.epoch)
        self.finished = is_finished(run, recipe, self.timeline, self.progress)
        if not self.finished:
            check_disks(recipe)
            if self.teacher:
                check_same_teacher(run, self.teacher, self.progress)

    def _settle_run(self) -> None:
        """Have the main rank prepare the run folder, and read the tokenizer from it."""
        barrier()
        if self.environment.is_main:
            self._prepare_folder()
        barrier()
        self.tokenizer = load_tokenizer(self.recipe.method, self.run.tokenizer)

    def _prepare_folder(self) -> None:
        # What a finished run was trained by stays in its recipe.yaml, whatever is asked for now.
        if not (self.finished and self.run.recipe.is_file()):
            self.run.create(self.recipe)
            self.shards.record.write(self.run.path)
            if self.teacher:
                record_teacher(self.run, self.teacher)
            write_plugins(self.run.path)
        self.run.pin()
        keep_last = load_recipe(self.run.path).checkpoints.keep_last
        self.run.tidy(keep_last, self.progress.best_step)
        with activity("preparing the tokenizer"):
            method = self.recipe.method
            self.recovered += settle_tokenizer(
                self.run, method, data_sets(self.recipe, self.shards)
            )
            keep_architecture(method, self.run.path)

    def train(self) -> None:
        """Train to the end; the results of the last evaluation are in the run folder."""
        speaks = self.environment.is_main
        if self.finished:
            lines = self._finished_lines()
            if speaks:
                print(*lines, sep="\n")
            return
        if speaks:
            self._drop_metrics()
        with TrainingLog(
            self.run, first_step=self.progress.step, steps=self.timeline.total, speaks=speaks
        ) as self.log:
            for line in [*self._lines(), *(self.mirror.catch_up() if self.mirror else [])]:
                self.log.say(line)
            if speaks and not self.progress.step:
                self._advise()
            choose_kernels(deterministic=self.recipe.training.deterministic)
            with refusing_other_kernels("training.deterministic"):
                self._trainer(self.prepare(self.log.say)).train()

    def prepare(self, say: Callable[[str], None]) -> Shards:
        """Finish the method, which needs the run's tokenizer, and return the shards to read.

        They are those of the recipe, or of cached features, whose computation `say` reports.
        """
        device = self.environment.device
        self.method = with_vocabulary(self.method, self.recipe, self.tokenizer, device)
        load_text_tower(self.method, self.recipe)
        for line in load_pretrained(self.method, self.recipe):
            say(line)
        if self.teacher:
            return self._taught(self.teacher, say)
        return self.shards if self.recipe.data.feature_cache is None else self._features(say)

    def _taught(self, teacher: Teacher, say: Callable[[str], None]) -> Shards:
        """Return the shards beside the teacher's features of them; missing ones are computed."""
        data, self.teacher = self.recipe.data, None
        features = [teacher.features(one, data, say) for one in self.shards.train]
        return replace(self.shards, teacher=features)

    def _trainer(self, read: Shards) -> Trainer:
        """Return what trains on shards: those of the recipe, or of their features."""
        recipe, contents = self.recipe, self.method.contents
        self.method.make_room(sum(one.num_samples for one in self.shards.train))
        evaluation = TrainingEvaluation(
            recipe,
            self.run,
            self.environment,
            self.shards,
            read,
            self.tokenizer,
            self.log,
            self.progress,
            self.timeline.total,
            self.best,
        )
        return Trainer(
            recipe.data,
            recipe.training,
            recipe.checkpoints.model_copy(update={"best": self.best}),
            self.run,
            self.environment,
            training_set(
                recipe,
                read,
                self.mixture,
                self.tokenizer,
                contents,
                self.mined,
                defer=self.environment.device.type == "cuda",
            ),
            self.method,
            evaluation if read.val else None,
            self.log,
            self.progress,
            self.timeline,
            self.mirror,
            self.report,
            freeze_batch_norm=recipe.method.image.freezes_batch_norm,
        )

    def _features(self, say: Callable[[str], None]) -> Shards:
        """Return the shards of cached features; missing ones are computed."""

        def cached(shards: Manifest, captions: int) -> Manifest:
            return cached_features(
                self.method,
                shards,
                self.tokenizer,
                self.recipe,
                captions=captions,
                device=self.environment.device,
                say=say,
            )

        shards, contents = self.shards, self.method.contents
        read = Shards(
            [cached(one, contents.captions) for one in shards.train],
            cached(shards.val, _num_captions(shards.val, contents)) if shards.val else None,
            *(
                cached(one, GALLERY.captions) if one else None
                for one in (shards.gallery, shards.probe_train)
            ),
        )
        self.method.cpu()
        return read

    def _drop_metrics(self) -> None:
        """Drop what a killed run has logged of steps that come again."""
        log_every = self.recipe.training.log_every
        with self.run.writing(self.run.metrics):
            self.recovered += drop_metrics_after(self.run.metrics, self.progress.step, log_every)

    def _advise(self) -> None:
        with activity("surveying the data"):
            for line in lines_before_training(
                self.recipe,
                self.method.contents,
                self.timeline,
                data_sets(self.recipe, self.shards),
                self.shards.val,
                self.tokenizer,
            ):
                self.log.say(line)

    def _finished_lines(self) -> list[str]:
        """Send what a mirror lacks of a finished run; return what there is to report of it."""
        lines = [
            *self.recovered,
            *finished_lines(self.run, self.recipe, self.progress, self.timeline),
        ]
        if self.mirror:
            lines += [*self.mirror.catch_up(), *self.mirror.finish()]
        return lines

    def _lines(self) -> list[str]:
        """Return what the log says of the recipe and the data before training."""
        of_shards = [line for shards in self.shards.every for line in shards.warnings]
        mixed = mixture_lines(self.recipe, self.shards, self.mixture)
        return [*self.recovered, *self._resuming(), *self.lines, *of_shards, *mixed]

    def _resuming(self) -> list[str]:
        step, total = self.progress.step, self.timeline.total
        folder = self.run.checkpoint(step)
        return [f"Resuming from step-{step} of {total} ({folder})"] if 0 < step < total else []


def _num_captions(shards: Manifest, contents: BatchSpec) -> int:
    return evaluated_parts(SampleReader(shards), contents).captions
