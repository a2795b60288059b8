"""Training loop: stages of DeepSpeed steps over the plan's batches."""

import copy
import gc
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor

from xmodal.activity import activity
from xmodal.costs.meter import StepMeter
from xmodal.data.batch import Batch
from xmodal.data.config import DataConfig
from xmodal.data.loader import TrainingLoader
from xmodal.data.training_set import TrainingSet
from xmodal.devices import copy_to
from xmodal.distributed.collectives import sum_over_ranks
from xmodal.distributed.environment import Environment
from xmodal.distributed.watchdog import within
from xmodal.errors import UnfinishedError, UserError
from xmodal.methods.method import Method
from xmodal.phases import phase
from xmodal.runs.averages import averaged
from xmodal.runs.checkpoints.load import load_checkpoint, load_weights, needs_resharding
from xmodal.runs.checkpoints.mirror import Mirror
from xmodal.runs.deepspeed_adapter import copy_weights
from xmodal.runs.progress import Progress
from xmodal.runs.run import Run
from xmodal.training.bad_samples import count_bad_samples
from xmodal.training.checkpointing import Checkpointing
from xmodal.training.config import CheckpointConfig, TrainingConfig
from xmodal.training.device_batches import device_batches
from xmodal.training.ema import set_decay
from xmodal.training.engine import close_engine, initialize_engine, set_learning_rate
from xmodal.training.failures import failed, not_finite
from xmodal.training.garbage import ScheduledCollection
from xmodal.training.gradient_cache import GradientCache
from xmodal.training.log import TrainingLog
from xmodal.training.loss_weights import loss_weights
from xmodal.training.momentum_encoder import embed_by_momentum_encoder
from xmodal.training.preemption import Preemption
from xmodal.training.profiling import StepProfile
from xmodal.training.requirements import check_requirements
from xmodal.training.stage_method import first_step, prepare_method, step_patience
from xmodal.training.step_report import StepReport
from xmodal.training.timeline import StageSpan, Timeline

# Called with the method, the completed steps, the stage, and whether the weights are averages.
Evaluate = Callable[[Method, int, StageSpan, bool], dict[str, float]]
# Called with the completed steps, their total, and the metrics of the evaluation after them.
Report = Callable[[int, int, dict[str, float]], None]


class Trainer:
    """Trains a method in stages, from the newest checkpoint of its run folder.

    `method` has its first weights; `evaluate` measures it after a step, and may stop the run by
    `progress`; `report` is called with the metrics once the checkpoint of that step is complete.
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
        self.report, self.freeze_batch_norm = report, freeze_batch_norm
        self.micro_batch_size = data.micro_batch_size or data.batch_size // environment.ranks
        self.unread: deque[StepReport] = deque()  # of the newest steps
        self.preemption = Preemption()
        self.stopping = False  # some rank has been asked to
        self.checkpointing = Checkpointing(
            checkpoints,
            run,
            progress,
            log,
            mirror,
            prunes=environment.is_main,
            within=self._patiently,
        )
        self.profile = StepProfile(training.profile, run, log, timeline.total)
        self.has_trained = False  # a stage in this process: `method` has its weights

    def train(self) -> None:
        """Run every stage that is not over, as long as the conditions at the end of each hold.

        Raises `UnfinishedError`, the checkpoint saved, once some rank has been asked to stop.
        """
        # a killed process may have had no time for it
        self.checkpointing.prune(self.progress.best_step)
        with self.preemption, self.profile:
            for span in self.timeline.stages:
                if self.progress.step < span.end and not self.progress.stopped:
                    self._run_stage(span)
                    gc.collect()  # the stage's engine: as large as the next one's
                if self.progress.step == span.end:
                    check_requirements(span.config, self.progress.measured)
            self.checkpointing.finish()

    def _run_stage(self, span: StageSpan) -> None:
        stage = span.config.name
        with activity(f"starting stage {stage}"), self._patiently(f"the start of stage {stage}"):
            engine = self._start_stage(span)
        with ScheduledCollection() as self.garbage:
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
        reshards = checkpoint and needs_resharding(checkpoint, zero.stage, on_disks=zero.from_disk)
        if checkpoint and (not resumes or reshards):
            with activity(f"loading {checkpoint.name}"):
                load_weights(self.method, checkpoint, zero.stage)
        # DeepSpeed leaves its marks on a module for good: all stages but the last train a copy.
        is_last = span is self.timeline.stages[-1]
        method = self.method if is_last else copy.deepcopy(self.method)
        lines, flops = prepare_method(
            method,
            span.config,
            self.training,
            encoded=self.micro_batch_size * self.environment.ranks,
            batch_size=self.data.batch_size,
            freeze_batch_norm=self.freeze_batch_norm,
        )
        self.log.say_all(lines)
        self.meter = StepMeter(flops, self.environment, self.data.batch_size, bf16=method.bf16)
        engine = initialize_engine(
            method, span.config, self.training, self.data.batch_size, self.environment.ranks
        )
        if checkpoint and resumes:
            with activity(f"loading {checkpoint.name}"):
                load_checkpoint(engine, checkpoint)
        return engine

    def _train_stage(self, engine: Any, span: StageSpan) -> None:
        self.first = self.progress.step
        loader = self._loader(span)
        with closing(device_batches(iter(loader), self.environment.device)) as batches:
            batch = self._first(batches, span)
            self.meter.resume()
            while True:
                what = first_step(self.training) if self.progress.step == self.first else ""
                with (
                    self._watched("step", span, what),
                    self.profile.step(self.progress.step + 1),
                    self.meter.step(batch),
                ):
                    self.unread.append(self._step(engine, batch, span))
                    reports = self._read_reports(engine.module, span)
                self.progress.step += 1
                self.after_step(engine, span, reports, loader)
                self.garbage.after_step(self.progress.step)
                over = self.progress.stopped or self.progress.step == self.timeline.total
                if self.stopping and not over:
                    self.checkpointing.finish()
                    raise UnfinishedError(
                        f"Interrupted; saved step-{self.progress.step} of {self.timeline.total}. "
                        "Rerun the same command to resume."
                    )
                if over or self.progress.step == span.end:
                    self.checkpointing.finish_saving()
                    return
                self.meter.resume()
                with self.meter.waiting():
                    batch = self._next(batches, span)

    def after_step(
        self,
        engine: Any,
        span: StageSpan,
        reports: list[StepReport],
        loader: TrainingLoader,
    ) -> None:
        """Log, evaluate and save after a step, each when it is due, given the reports now read."""
        step, ends = self.progress.step, self.progress.step == span.end
        for report in reports:
            if report.num_written == self.environment.ranks:
                self.checkpointing.finish_saving()
            if report.step % self.training.log_every == 0 or report.step == span.end:
                self.log.say_all(self.meter.warnings())
                self._log(span, report, self.meter.lap(self.timeline.total - step), loader)
                reason = failed(engine.module, report.values, span, report.step)
                if reason:
                    self._give_up(reason)
        metrics = self._evaluate(engine, span) if self.timeline.evaluates_after(step) else {}
        if ends:
            self.progress.measured = reports[-1].values | metrics
        improved = self.progress.improves(metrics, self.checkpoints.best or "")
        is_last = self.stopping or self.progress.stopped
        if improved or is_last or self.timeline.saves_after(step):
            self.checkpointing.save(engine)
        if metrics and self.report:
            self.checkpointing.finish_saving()
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
        """Return the stage's first batch, and log the start of the stage."""
        begun = time.perf_counter()
        batch = self._next(batches, span)
        self.log.say(
            f"{span.config.name}: steps {self.progress.step + 1} to {span.end}, "
            f"{self.data.batch_size} pairs each, first batch after "
            f"{time.perf_counter() - begun:.1f} s"
        )
        return batch

    def _next(self, batches: Generator[Batch], span: StageSpan) -> Batch:
        with self._watched("the data of step", span, "waiting for data"):
            return next(batches)

    @contextmanager
    def _watched(self, what: str, span: StageSpan, doing: str = "") -> Iterator[None]:
        seconds = step_patience(self.training, is_first=self.progress.step == self.first)
        what = f"{what} {self.progress.step + 1} (stage {span.config.name})"
        step = f"{span.config.name} step {self.progress.step + 1}/{self.timeline.total}"
        with within(seconds, lambda: what), activity(f"{step}: {doing}" if doing else step):
            yield

    def _patiently(self, what: str) -> AbstractContextManager[None]:
        # Reads and writes all that a model has, on a disk that others use too.
        return within(3 * self.training.watchdog, lambda: what)

    def _step(self, engine: Any, batch: Batch, span: StageSpan) -> StepReport:
        """Take one optimiser step and return its report, which need not be computed yet."""
        rate = set_learning_rate(engine, span, self.progress.step, self.timeline)
        set_decay(engine, span.config, self.progress.step - span.start)
        # A seed for each step leaves no random state to save: what is drawn depends on it alone.
        seed = (self.training.seed, self.progress.step)
        progress = span.progress(self.progress.step)
        engine.module.on_step_start(progress, hash(seed) % 2**63)
        batch = self.dataset.augmented(batch)
        cache = GradientCache(engine, batch.cut(self.micro_batch_size), seed)
        losses = cache.forward()
        weights = loss_weights(span.config.losses, losses, progress)
        loss = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        shared = self.reduce_step_stats(losses, loss, batch)
        cache.backward(loss)
        with phase("optimiser"):
            engine.step()
        embed_by_momentum_encoder(engine, cache)
        norm = engine.get_global_grad_norm()
        norm = torch.as_tensor(0.0 if norm is None else norm, dtype=torch.float64)
        own = {"grad_norm": norm, **engine.module.monitors}
        ramped = {name for name, one in span.config.losses.items() if one.ramp != "none"}
        known = {f"weight/{name}": weights[name] for name in ramped} | {"lr": rate}
        return StepReport(self.progress.step + 1, batch, tuple(losses), shared, own, known)

    def reduce_step_stats(self, losses: dict[str, Tensor], loss: Tensor, batch: Batch) -> Tensor:
        """Return what `StepReport` takes as shared: sums over ranks, of losses and counts.

        By these ranks agree to stop, now or (where some rank has been asked to) after the step, and
        learn whether the checkpoint in progress is written.
        """
        reports, written = len(batch.faults) + len(batch.warnings), self.checkpointing.is_written()
        counts = torch.tensor([reports, self.preemption.asked, written], dtype=loss.dtype)
        mine = torch.stack([*losses.values(), loss]).detach()
        return sum_over_ranks(torch.cat([mine, copy_to(loss.device, counts)]))

    def _read_reports(self, method: Method, span: StageSpan) -> list[StepReport]:
        """Read the reports of the steps that are complete, and stop where ranks agree on that.

        A device is left the newest step to compute, unless something is due that depends on it.
        """
        step, reports = self.progress.step + 1, list[StepReport]()
        is_due = step == span.end or self.timeline.evaluates_after(step)
        is_due |= self.timeline.saves_after(step) or self.environment.device.type == "cpu"
        while len(self.unread) > (0 if is_due or self.stopping else 1):
            report = self.unread.popleft()
            report.read(self.environment.ranks)
            self.stopping |= report.num_asked > 0
            if report.num_reports:
                self._count_bad_samples(report)
            norm = {"norm of the gradients": report.values["grad_norm"]}
            losses = {f"{name} loss": value for name, value in report.losses.items()}
            for name, value in (losses | norm).items():
                if not math.isfinite(value):
                    what = not_finite(name, value, span, report.step - 1, self.data.batch_size)
                    self._give_up(failed(method, report.values, span, report.step) or what)
            reports.append(report)
        return reports

    def _count_bad_samples(self, report: StepReport) -> None:
        lines, reason = count_bad_samples(report.samples, report.step, self.progress, self.data)
        self.log.say_all(lines)
        if reason:
            self._give_up(reason)

    def _log(
        self, span: StageSpan, report: StepReport, pace: dict[str, float], loader: TrainingLoader
    ) -> None:
        self.log.step(
            report.step,
            span,
            report.values
            | {"epoch": report.step * self.data.batch_size / self.timeline.epoch_samples}
            | self.progress.counts
            | pace
            | loader.lap(),
        )

    def _evaluate(self, engine: Any, span: StageSpan) -> dict[str, float]:
        if self.evaluate is None:
            return {}
        step = self.progress.step
        with activity(f"evaluation at step {step}"), averaged(engine) as is_average:
            return self.evaluate(engine.module, step, span, is_average)

    def _give_up(self, why: str) -> NoReturn:
        """End the run for a reason known to all ranks; checkpoints stay."""
        self.checkpointing.finish()
        raise UserError(why)
