"""The training loop: stages of DeepSpeed steps over the plan's batches."""

import copy
import gc
import math
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, closing
from typing import Any, NoReturn

import torch
from torch import Tensor

from xmodal.activity import Activity, activity
from xmodal.data.batch import Batch, Fault
from xmodal.data.config import DataConfig
from xmodal.data.loader import TrainingLoader
from xmodal.data.training_set import TrainingSet
from xmodal.distributed.collectives import gather_objects, sum_over_ranks
from xmodal.distributed.environment import Environment
from xmodal.distributed.watchdog import within
from xmodal.errors import UnfinishedError, UserError
from xmodal.methods.method import Method
from xmodal.runs.checkpoints.load import (
    load_checkpoint,
    load_weights,
    needs_resharding,
)
from xmodal.runs.checkpoints.mirror import Mirror
from xmodal.runs.checkpoints.saving import Saving
from xmodal.runs.deepspeed_adapter import copy_weights
from xmodal.runs.progress import Progress, Stopwatch
from xmodal.runs.run import Run
from xmodal.training.config import CheckpointConfig, LossConfig, TrainingConfig
from xmodal.training.engine import close_engine, gradient_norm, initialize_engine
from xmodal.training.gradient_cache import GradientCache, batch_norms
from xmodal.training.log import TrainingLog
from xmodal.training.loss_weights import loss_weight
from xmodal.training.parts import select_trained, set_modes
from xmodal.training.preemption import Preemption
from xmodal.training.requirements import check_requirements
from xmodal.training.timeline import StageSpan, Timeline

Evaluate = Callable[[Method, int, StageSpan], dict[str, float]]
# Told the completed steps, of how many, and what the evaluation after them has measured.
Report = Callable[[int, int, dict[str, float]], None]


class Trainer:
    """Trains a method in stages, from where its run folder left off.

    `method` has its first weights; `evaluate` measures it after a step, and `report` is called with
    the metrics once what is to be saved of that step is.
    """

    def __init__(
        self,
        data: DataConfig,
        training: TrainingConfig,
        checkpoints: CheckpointConfig,
        run: Run,
        environment: Environment,
        dataset: TrainingSet,
        method: Method,
        evaluate: Evaluate | None,
        log: TrainingLog,
        progress: Progress,
        timeline: Timeline,
        mirror: Mirror | None = None,
        report: Report | None = None,
        *,
        freeze_batch_norm: bool,
    ) -> None:
        self.data, self.training, self.checkpoints = data, training, checkpoints
        self.run, self.environment = run, environment
        self.dataset, self.method, self.evaluate = dataset, method, evaluate
        self.log, self.progress, self.timeline = log, progress, timeline
        self.mirror, self.report = mirror, report
        self.freeze_batch_norm = freeze_batch_norm
        self.share = data.batch_size // environment.ranks
        self.micro_batch_size = data.micro_batch_size or self.share
        self.preemption = Preemption()
        self.stopping = False  # some rank has been asked to
        self.saving: Saving | None = None  # the checkpoint that is being written
        self.saved = False  # all ranks have written it
        self.has_trained = False  # a stage in this process: `method` has its weights

    def train(self) -> None:
        """Run every stage that is not over, as long as what each requires holds at its end.

        Raises `UnfinishedError` after a step before which some rank was asked to stop, its
        checkpoint saved.
        """
        if self.environment.is_main:  # whoever was killed may have had no time for it
            self.run.prune(self.checkpoints.keep_last, self.progress.best_step)
        with self.preemption:
            for span in self.timeline.stages:
                if self.progress.step < span.end:
                    self._run_stage(span)
                    gc.collect()  # the stage's engine: as large as the next one's
                if self.progress.step == span.end:
                    check_requirements(span.config, self.progress.measured)
            self._finish()

    def _run_stage(self, span: StageSpan) -> None:
        stage = span.config.name
        with activity(f"starting stage {stage}"), self._patiently(f"the start of stage {stage}"):
            engine = self._start_stage(span)
        self._train_stage(engine, span)
        if span is not self.timeline.stages[-1]:
            copy_weights(engine, self.method)
        close_engine(engine)

    def _start_stage(self, span: StageSpan) -> Any:
        """Return the DeepSpeed engine of a stage, with the state of the newest checkpoint.

        A stage that begins takes over the weights alone; one that resumes, the optimiser too.
        """
        checkpoint = None if self.has_trained else self.run.latest()
        self.has_trained = True
        resumes, zero = self.progress.step > span.start, self.training.zero
        if checkpoint and (not resumes or needs_resharding(checkpoint, zero)):
            with activity(f"loading {checkpoint.name}"):
                load_weights(self.method, checkpoint, zero)
        # DeepSpeed leaves its marks on a module for good: all stages but the last train a copy.
        is_last = span is self.timeline.stages[-1]
        method = self.method if is_last else copy.deepcopy(self.method)
        select_trained(method, span.config.train)
        method.begin_stage(tuple(span.config.losses))
        set_modes(method, freeze_batch_norm=self.freeze_batch_norm)
        self._warn_of_batch_norm(method)
        engine = initialize_engine(
            method,
            span.config,
            batch_size=self.data.batch_size,
            ranks=self.environment.ranks,
            zero=zero,
        )
        if checkpoint and resumes:
            with activity(f"loading {checkpoint.name}"):
                load_checkpoint(engine, checkpoint)
        return engine

    def _train_stage(self, engine: Any, span: StageSpan) -> None:
        self.first = self.progress.step
        loader = self._loader(span)
        with closing(iter(loader)) as batches:
            batch = self._first(batches, span)
            watch = Stopwatch(self.data.batch_size)
            while True:
                what = "first step" if self.progress.step == self.first else ""
                with self._watched("step", span), self._activity(span, what):
                    values = self._step(engine, batch, span)
                self.progress.step += 1
                watch.step_done()
                self.after_step(engine, span, values, watch, loader)
                if self.stopping and self.progress.step < self.timeline.total:
                    self._finish()
                    raise UnfinishedError(self._unfinished())
                if self.progress.step == span.end:
                    self._finish_saving()
                    return
                watch.resume()
                with (
                    watch.waiting(),
                    self._watched("the data of step", span),
                    self._activity(span, "waiting for data"),
                ):
                    batch = next(batches)

    def after_step(
        self,
        engine: Any,
        span: StageSpan,
        values: dict[str, float],
        watch: Stopwatch,
        loader: TrainingLoader,
    ) -> None:
        """Do what follows a step: log it, evaluate, save, each where it is time for it."""
        step, ends = self.progress.step, self.progress.step == span.end
        if self.saved:
            self._finish_saving()
        if step % self.training.log_every == 0 or ends:
            self._log(span, values, watch.lap(self.timeline.total - step), loader)
            self._stop_on_trouble(engine.module, span)
        metrics = self._evaluate(engine, span) if self.timeline.evaluates_after(step) else {}
        if ends:
            self.progress.measured = values | metrics
        improved = self.progress.improves(metrics, self.checkpoints.best)
        if improved or self.stopping or self.timeline.saves_after(step):
            self._save(engine)
        if metrics and self.report:
            self._finish_saving()
            self.report(step, self.timeline.total, metrics)

    def _loader(self, span: StageSpan) -> TrainingLoader:
        return TrainingLoader(
            self.dataset,
            range(self.progress.step - span.origin, span.end - span.origin),
            batch_size=self.data.batch_size,
            rank=self.environment.rank,
            ranks=self.environment.ranks,
            workers=self.data.workers,
        )

    def _first(self, batches: Generator[Batch], span: StageSpan) -> Batch:
        """Return the stage's first batch; a stage that does not begin says what it waits for."""
        begun = time.perf_counter()
        with self._watched("the data of step", span), self._activity(span, "waiting for data"):
            batch = next(batches)
        self.log.say(
            f"{span.config.name}: steps {self.progress.step + 1} to {span.end}, "
            f"{self.data.batch_size} pairs each, first batch after "
            f"{time.perf_counter() - begun:.1f} s"
        )
        return batch

    def _watched(self, what: str, span: StageSpan) -> AbstractContextManager[None]:
        # A loader's and an engine's first use is slow: files are opened, kernels compiled.
        factor = 3 if self.progress.step == self.first else 1
        what = f"{what} {self.progress.step + 1} (stage {span.config.name})"
        return within(factor * self.training.watchdog, lambda: what)

    def _activity(self, span: StageSpan, what: str) -> AbstractContextManager[Activity]:
        step = f"{span.config.name} step {self.progress.step + 1}/{self.timeline.total}"
        return activity(f"{step}: {what}" if what else step)

    def _patiently(self, what: str) -> AbstractContextManager[None]:
        # Reads and writes all that a model has, on a disk that others use too.
        return within(3 * self.training.watchdog, lambda: what)

    def _step(self, engine: Any, batch: Batch, span: StageSpan) -> dict[str, float]:
        """Take one optimiser step and return what is to be known of it, losses by name first."""
        rate = self._set_learning_rate(engine, span)
        # A seed for each step leaves no random state to save: what is drawn depends on it alone.
        seed = (self.training.seed, self.progress.step)
        progress = span.progress(self.progress.step)
        engine.module.on_step_start(progress, hash(seed) % 2**63)
        cache = GradientCache(engine, batch.cut(self.micro_batch_size), seed)
        losses = cache.forward()
        weights = {
            name: loss_weight(span.config.losses.get(name, LossConfig()), progress)
            for name in losses
        }
        loss = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        values = self.reduce_step_stats(losses, loss, batch, span)
        cache.backward(loss)
        norm = None if engine.zero_optimization() else gradient_norm(engine.module)
        engine.step()
        ramped = {name for name, one in span.config.losses.items() if one.ramp != "none"}
        return {
            **values,
            **{f"weight/{name}": weights[name] for name in ramped},
            # ZeRO knows the norm once it has stepped; without it the gradients are gone by then.
            "grad_norm": float(norm or engine.get_global_grad_norm() or 0),
            **{name: float(value) for name, value in engine.module.monitors.items()},
            "lr": rate,
        }

    def reduce_step_stats(
        self, losses: dict[str, Tensor], loss: Tensor, batch: Batch, span: StageSpan
    ) -> dict[str, float]:
        """Return the means over ranks of the losses and of their weighted sum; find out together
        whether to stop, now or (where some rank has been asked to) after this step, and whether the
        checkpoint that is being saved is written.
        """
        written = self.saving is not None and self.saving.is_written()
        counts = loss.new_tensor(
            [len(batch.faults) + len(batch.warnings), self.preemption.asked, written]
        )
        mine = torch.cat([torch.stack([*losses.values(), loss]).detach(), counts])
        *parts, total, num_reports, num_asked, num_written = sum_over_ranks(mine).tolist()
        if num_reports:
            self._report(batch)
        ranks = self.environment.ranks
        self.stopping, self.saved = num_asked > 0, num_written == ranks
        values = {name: part / ranks for name, part in zip(losses, parts, strict=True)}
        for name, value in values.items():
            if not math.isfinite(value):
                self._give_up(self._not_finite(name, value, span))
        return {"loss": total / ranks} | {f"loss/{name}": value for name, value in values.items()}

    def _not_finite(self, name: str, value: float, span: StageSpan) -> str:
        step, size = self.progress.step, self.data.batch_size
        position = (step - span.origin) * size
        return (
            f"the {name} loss is {value} at step {step + 1} (stage {span.config.name}, positions "
            f"{position} to {position + size - 1} of the data); "
            "train with a lower optimizer.lr or a longer schedule.warmup in another run=DIR"
        )

    def _stop_on_trouble(self, method: Method, span: StageSpan) -> None:
        reason = method.failure_reason()
        if reason:
            self._give_up(f"step {self.progress.step}, stage {span.config.name}: {reason}")

    def _unfinished(self) -> str:
        step, total = self.progress.step, self.timeline.total
        return f"Interrupted; saved step-{step} of {total}. Rerun the same command to resume."

    def _report(self, batch: Batch) -> None:
        """Count bad samples and reads begun again, and name the first ones; stop when bad samples
        are too many.
        """
        faults = gather_objects(batch.faults, Fault)
        lines = self.progress.count(faults) + self.progress.count_retries(
            gather_objects(batch.warnings)
        )
        self._say(lines)
        seen = (self.progress.step + 1) * self.data.batch_size
        if self.progress.faults > self.data.max_bad_share * max(seen, 1000):
            bad = [fault for fault in faults if not (fault.by_choice or fault.partial)]
            self._give_up(
                f"{self.progress.faults} of {seen} samples cannot be read "
                f"({self.progress.causes()}), the last {bad[-1] if bad else 'named above'}; "
                "run `python -m shards check` on the shards or raise data.max_bad_share"
            )

    def _set_learning_rate(self, engine: Any, span: StageSpan) -> float:
        """Set each part's learning rate and return that of parts of which nothing is said."""
        total = span.end - span.start
        schedule = span.config.schedule.build(lambda d: self.timeline.steps(d, total))
        highest = span.config.optimizer.lr
        rate = highest * schedule.factor(self.progress.step - span.start, total)
        for group in engine.optimizer.param_groups:
            group["lr"] = (highest if group["constant"] else rate) * group["factor"]
        return rate

    def _log(
        self,
        span: StageSpan,
        values: dict[str, float],
        pace: dict[str, float],
        loader: TrainingLoader,
    ) -> None:
        step = self.progress.step
        self.log.step(
            step,
            span,
            values
            | {
                "epoch": step * self.data.batch_size / self.timeline.epoch_samples,
                "bad_samples": self.progress.faults,
                "dropped_parts": self.progress.parts,
                "skipped": self.progress.skipped,
                "read_retries": self.progress.retries,
            }
            | pace
            | loader.lap(),
        )

    def _evaluate(self, engine: Any, span: StageSpan) -> dict[str, float]:
        with activity(f"evaluation at step {self.progress.step}"):
            return self.evaluate(engine.module, self.progress.step, span) if self.evaluate else {}

    def _save(self, engine: Any) -> None:
        self._finish_saving()
        self.saving = Saving(engine, self.run, self.progress)

    def _finish_saving(self) -> None:
        """Have the checkpoint that is being written, if one is, whole and in its place."""
        if self.saving is None:
            return
        saving, self.saving = self.saving, None
        name = saving.folder.name
        with activity(f"saving {name}"), self._patiently(f"all files of {name}"):
            self.log.say(saving.finish())
        if self.mirror:
            self._say(self.mirror.send(saving.folder))
        if self.environment.is_main:
            self.run.prune(self.checkpoints.keep_last, saving.best_step)

    def _finish(self) -> None:
        """Let what is on its way to the disk and to the mirror arrive."""
        self._finish_saving()
        if self.mirror:
            self._say(self.mirror.finish())

    def _give_up(self, why: str) -> NoReturn:
        """End the run, for what all ranks know; what has been saved stays."""
        self._finish()
        raise UserError(why)

    def _say(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.log.say(line)

    def _warn_of_batch_norm(self, method: Method) -> None:
        norms = list(batch_norms(method))
        if norms and self.micro_batch_size < self.share:
            size = self.micro_batch_size * self.environment.ranks
            self.log.say(
                f"{norms[0]} normalises {size} samples at a time, a micro-batch of all ranks, "
                f"not data.batch_size={self.data.batch_size}"
            )
