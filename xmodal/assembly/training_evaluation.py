"""Evaluation of a run while it trains."""

from collections.abc import Sequence
from dataclasses import dataclass

from xmodal.assembly.data import Shards
from xmodal.assembly.evaluation import measure_shards
from xmodal.assembly.recipe import Recipe
from xmodal.data.manifest import Manifest
from xmodal.data.reader import SampleReader
from xmodal.data.tokens import CaptionTokenizer
from xmodal.distributed.environment import Environment
from xmodal.evaluation.protocols.registry import resolve
from xmodal.evaluation.report.examples import load_examples
from xmodal.evaluation.report.measured import Measured, describe
from xmodal.evaluation.report.results import write_results
from xmodal.evaluation.report.run_report import Example, retrieval_sheet
from xmodal.evaluation.retrieval import Retrieval
from xmodal.methods.method import Method
from xmodal.runs.progress import Progress
from xmodal.runs.recipe_file import dump_recipe
from xmodal.runs.run import Run
from xmodal.training.early_stopping import ended_early, watch
from xmodal.training.log import TrainingLog
from xmodal.training.timeline import StageSpan


@dataclass
class TrainingEvaluation:
    """Evaluation of a run during training: measures, logs, and writes the final results."""

    recipe: Recipe
    run: Run
    environment: Environment
    shards: Shards  # what there is to see
    read: Shards  # what is measured: the same, or their features
    tokenizer: CaptionTokenizer
    log: TrainingLog
    progress: Progress
    steps: int  # of the run
    best: str  # metric that chooses the best checkpoint

    def __call__(
        self, method: Method, step: int, span: StageSpan, averaged: bool
    ) -> dict[str, float]:
        """Return the metrics after a step of a stage; all ranks call this.

        `averaged` tells whether the method has averaged weights. Where they end the run early, its
        progress says so.
        """
        val = self.shards.val
        assert val is not None
        retrieval = measure_shards(
            self.recipe,
            method,
            self.shards,
            self.read,
            self.tokenizer,
            self.environment.device,
        )
        for line in retrieval.fault_lines():
            self.log.say(line)
        if stopping := self.recipe.training.early_stopping:
            watch(self.progress, retrieval.metrics, stopping, self.best, self.steps)
        if self.environment.is_main:
            gallery = self.shards.gallery
            hits = SampleReader(gallery) if gallery else None
            examples = load_examples(retrieval.examples, SampleReader(val), hits)
            sheet = retrieval_sheet(examples)
            self.log.evaluation(step, span, retrieval.metrics, sheet, averaged=averaged)
            if self.progress.stopped:
                self.log.say(ended_early(self.progress, self.steps))
            if self.progress.stopped or step == self.steps:
                self._write(retrieval, examples, self._described(method, step, val, averaged))
        return retrieval.metrics

    def _described(self, method: Method, step: int, val: Manifest, averaged: bool) -> Measured:
        config, checkpoint = self.recipe.evaluation, self.run.checkpoint(step).name
        names = resolve(config.protocols, method.contents, val.relevance)
        sets = (val, self.shards.gallery, self.shards.probe_train)
        return describe(checkpoint, None, *sets, names, config, averaged=averaged)

    def _write(self, retrieval: Retrieval, examples: Sequence[Example], measured: Measured) -> None:
        write_results(
            self.run.path,
            self.run.path.name,
            retrieval.metrics,
            examples,
            measured,
            recipe=dump_recipe(self.recipe),
            history=self.run.history(),
            ended=self.progress.stopped,
            per_query=retrieval.per_query,
        )
