"""One run from its recipe to its results: what `launch/train.py` does."""

import re

import torch

from xmodal.data.config import nearest_divisors
from xmodal.data.loader import PairReader, TrainingSet
from xmodal.data.manifest import Manifest, read_manifest
from xmodal.data.plan import Plan
from xmodal.data.samples import SampleReader
from xmodal.data.transforms import ImageTransform
from xmodal.distributed.collectives import barrier
from xmodal.distributed.environment import Environment
from xmodal.errors import UserError
from xmodal.evaluation.examples import retrieved_examples
from xmodal.evaluation.ranking import Ranks
from xmodal.evaluation.recall import recall_metrics
from xmodal.evaluation.report import retrieval_sheet
from xmodal.evaluation.results import write_results
from xmodal.evaluation.retrieval import default_protocol, evaluate_retrieval, evaluation_set
from xmodal.methods.build import build_method, load_tokenizer, make_tokenizer
from xmodal.methods.clip import Clip
from xmodal.models.config import TransformerConfig
from xmodal.recipe import Recipe, dump_recipe
from xmodal.training.checkpoints import check_ranks, read_progress
from xmodal.training.features import cached_features, locked_sides
from xmodal.training.log import TrainingLog
from xmodal.training.parts import select_trained
from xmodal.training.progress import find_metric
from xmodal.training.run import Run
from xmodal.training.timeline import Timeline
from xmodal.training.trainer import Trainer


class Session:
    """A recipe, its run folder, its shards and this process's place in the job, put together.

    Raises `UserError` for all that can be known to be wrong before training.
    """

    def __init__(self, recipe: Recipe, environment: Environment) -> None:
        self.recipe, self.environment = recipe, environment
        self.run = Run(recipe.run)
        check_sizes(recipe, environment.ranks)
        self.run.check(recipe)
        self.train_shards = read_manifest(recipe.data.train)
        self.val_shards = read_manifest(recipe.data.val) if recipe.data.val else None
        check_method(recipe)
        if self.val_shards:
            self.protocol = default_protocol(self.val_shards.relevance)
            check_best(recipe.checkpoints.best, self.protocol)
        self.progress = read_progress(self.run)
        timeline = Timeline(recipe, self.train_shards.num_samples)
        self.total = timeline.total
        checkpoint = self.run.latest()
        # Only what goes on inside a stage needs the optimiser.
        if checkpoint and self.progress.step not in {stage.end for stage in timeline.stages}:
            check_ranks(checkpoint, recipe.training.zero)
        barrier()
        if environment.is_main:
            self.run.create(recipe)
            make_tokenizer(recipe.method, self.train_shards, self.run.tokenizer)
        barrier()
        self.tokenizer = load_tokenizer(recipe.method, self.run.tokenizer)

    def train(self) -> None:
        """Train to the end; the results of the last evaluation are in the run folder."""
        speaks = self.environment.is_main
        if speaks:
            self.run.drop_metrics_after(self.progress.step)
        with TrainingLog(
            self.run, first_step=self.progress.step, steps=self.total, speaks=speaks
        ) as self.log:
            train_shards = self._features_of(self.train_shards)
            if self.val_shards:
                self.val_features = self._features_of(self.val_shards)
            Trainer(
                self.recipe,
                self.run,
                self.environment,
                self._training_set(train_shards),
                self._build,
                self._evaluate if self.val_shards else None,
                self.log,
                self.progress,
            ).train()

    def _build(self) -> Clip:
        return build_method(self.recipe, self.tokenizer, self.environment.device)

    def _features_of(self, shards: Manifest) -> Manifest:
        """Return the shards to read: those of cached features where the recipe wants them."""
        if self.recipe.data.feature_cache is None:
            return shards
        return cached_features(
            self._build(),
            evaluation_set(shards, self.recipe.method.image.size, self.tokenizer),
            shards,
            self.recipe,
            device=self.environment.device,
            say=self.log.say,
        )

    def _training_set(self, shards: Manifest) -> TrainingSet:
        data, seed = self.recipe.data, self.recipe.training.seed
        sizes = [shard.num_samples for shard in shards.shards]
        plan = Plan(sizes, seed=seed, lanes=data.num_lanes, window=data.window)
        transform = ImageTransform(self.recipe.method.image.size, data.crop, data.flip)
        return TrainingSet(PairReader(shards, transform), plan, self.tokenizer, seed)

    def _evaluate(self, method: Clip, step: int) -> dict[str, float]:
        assert self.val_shards is not None
        size = self.recipe.method.image.size
        retrieval = evaluate_retrieval(
            method,
            evaluation_set(self.val_features, size, self.tokenizer),
            self.val_shards.relevance,
            self.recipe.evaluation,
            protocol=self.protocol,
            device=self.environment.device,
            workers=self.recipe.data.workers,
            max_bad_share=self.recipe.data.max_bad_share,
        )
        for line in retrieval.fault_lines():
            self.log.say(line)
        if self.environment.is_main:
            samples = SampleReader(self.val_shards)
            examples = retrieved_examples(retrieval, samples, method.score)
            self.log.evaluation(step, retrieval.metrics, retrieval_sheet(examples))
            if step == self.total:
                write_results(
                    self.run.path,
                    retrieval.metrics,
                    examples,
                    recipe=dump_recipe(self.recipe),
                    history=self.run.history(),
                )
        return retrieval.metrics


def check_sizes(recipe: Recipe, ranks: int) -> None:
    """Raise `UserError` where the ranks do not divide the lanes, and so not the batch, or where
    micro-batches do not divide a rank's share of it.
    """
    data = recipe.data
    if data.num_lanes % ranks == 0:
        share = data.batch_size // ranks
        if data.micro_batch_size and share % data.micro_batch_size:
            raise UserError(
                f"ranks × data.micro_batch_size ({ranks} × {data.micro_batch_size}) does not "
                f"divide data.batch_size={data.batch_size}; nearest micro_batch_size: "
                + nearest_divisors(share, data.micro_batch_size)
            )
        return
    key, size = "batch_size", data.batch_size
    fitting = [size // ranks * ranks, -(-size // ranks) * ranks]
    if data.batch_size % ranks == 0:
        key, size = "lanes", data.num_lanes
        fitting = [n for n in range(ranks, data.batch_size + 1, ranks) if data.batch_size % n == 0]
    near = [
        max((n for n in fitting if 0 < n < size), default=0),
        min(n for n in fitting if n > size),
    ]
    raise UserError(
        f"{ranks} ranks do not divide data.{key}={size}; nearest: "
        + " or ".join(str(n) for n in near if n)
    )


def check_method(recipe: Recipe) -> None:
    """Raise `UserError` for an encoder that cannot be had, or parts to train that there are not."""
    text = recipe.method.text
    # The vocabulary itself is learned later: its size is all that the parts depend on.
    method = Clip(recipe.method, text.vocabulary if isinstance(text, TransformerConfig) else 0)
    if recipe.data.feature_cache:
        locked_sides(method, recipe)
    for stage in recipe.stages:
        select_trained(method, stage.train)


def check_best(name: str, protocol: str) -> None:
    """Raise `UserError` unless `name` is a metric, of which more is better."""
    query = torch.zeros(1, dtype=torch.int64)
    metrics = recall_metrics(Ranks(query, query), torch.zeros(1, 2, dtype=torch.int64), protocol)
    find_metric(
        {key: value for key, value in metrics.items() if re.search(r"/(recall@\d+|rsum)$", key)},
        name,
    )
