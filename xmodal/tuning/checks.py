"""What can be known to be wrong with a sweep before Ray starts."""

from xmodal.assembly.checks import check_best, check_method, check_sizes
from xmodal.assembly.recipe import Recipe
from xmodal.data.manifest import read_manifest
from xmodal.errors import UserError
from xmodal.evaluation.protocols.registry import all_metric_names, metric_names, resolve
from xmodal.runs.progress import full_name
from xmodal.training.timeline import Timeline
from xmodal.tuning.config import PopulationConfig, SpaceConfig


def timeline_of(recipe: Recipe) -> Timeline:
    """Return when things happen in a recipe's run."""
    data = recipe.data
    shards = [read_manifest(one.url, data.access, data.cache) for one in data.train]
    return recipe.timeline(data.epoch or sum(one.num_samples for one in shards))


def check_sweep(recipe: Recipe, space: SpaceConfig, timeline: Timeline) -> str:
    """Return the full name of a sweep's metric.

    Raises `UserError` where nothing measures it, or the workers do not fit the recipe.
    """
    data = recipe.data
    if data.val is None:
        raise UserError("data.val is missing: a sweep compares trials by an evaluation of it")
    check_sizes(recipe, space.workers)
    method = check_method(recipe)
    relevance = read_manifest(data.val, data.access, data.cache).relevance
    protocols = resolve(recipe.evaluation.protocols, method.contents, relevance)
    check_best(recipe.checkpoints.best, metric_names(protocols, method))
    names = all_metric_names(protocols, method)
    metric = full_name(space.metric, names)
    if metric is None:
        raise UserError(
            f"metric: {space.metric} is no metric of evaluation.protocols; there are "
            + ", ".join(names)
        )
    together = timeline.evaluate_every == timeline.checkpoint_every
    if isinstance(space.scheduler, PopulationConfig) and not together:
        raise UserError(
            "population-based training takes over checkpoints as they are measured: set "
            f"checkpoints.every={recipe.evaluation.every}, as evaluation.every is"
        )
    return metric
