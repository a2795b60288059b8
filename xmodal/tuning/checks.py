"""Checks of a sweep before Ray starts."""

import torch

from xmodal.assembly.build import first_method
from xmodal.assembly.checks import check_run, check_shards, check_sizes
from xmodal.assembly.data import Shards
from xmodal.assembly.recipe import Recipe
from xmodal.errors import UserError
from xmodal.evaluation.protocols.registry import all_metric_names
from xmodal.runs.progress import full_name, near_metric
from xmodal.training.timeline import Timeline
from xmodal.tuning.config import PopulationConfig, SpaceConfig


def check_sweep(recipe: Recipe, space: SpaceConfig, shards: Shards, timeline: Timeline) -> str:
    """Return the full name of a sweep's metric.

    Raises `UserError` where nothing measures it, or the workers do not fit the recipe.
    """
    if shards.val is None:
        raise UserError("data.val is missing: a sweep compares trials by an evaluation of it")
    check_sizes(recipe, space.workers)
    check_shards(recipe, shards, space.workers)
    method = first_method(recipe, torch.device("cpu"))
    names = all_metric_names(check_run(recipe, shards, method, space.workers), method)
    metric = full_name(space.metric, names)
    if metric is None:
        raise UserError(
            f"metric: {space.metric} is no metric of evaluation.protocols"
            f"{near_metric(space.metric, names)}; there are " + ", ".join(names)
        )
    together = timeline.evaluate_every == timeline.checkpoint_every
    if isinstance(space.scheduler, PopulationConfig) and not together:
        raise UserError(
            "population-based training takes over checkpoints as they are measured: set "
            f"checkpoints.every={recipe.evaluation.every}, as evaluation.every is"
        )
    return metric
