"""The text tower of another run, which PTF-SimCM can begin with (`method.text_from`)."""

from pathlib import Path

from xmodal.assembly.recipe import Recipe, load_recipe
from xmodal.errors import UserError
from xmodal.methods.config import ComposedConfig, TowersConfig
from xmodal.methods.method import Method
from xmodal.methods.ptf_simcm import PtfSimcmConfig
from xmodal.runs.checkpoints.load import read_weights
from xmodal.runs.run import Run

DESCRIBED = ("text", "text_head", "sentence")  # keys of the method, which are those of the tower


def with_text_tower(recipe: Recipe) -> Recipe:
    """Return a recipe whose text tower is described as in the run that it is taken from, if any.

    A run that resumes is described by itself. Raises `UserError` where another is no run with a
    text tower and a checkpoint.
    """
    method = recipe.method
    if not isinstance(method, PtfSimcmConfig) or method.text_from is None:
        return recipe
    if _own_checkpoint(recipe):
        own = load_recipe(recipe.run).method
        described = {name: getattr(own, name) for name in DESCRIBED}
        return recipe.model_copy(update={"method": method.model_copy(update=described)})
    other = load_recipe(method.text_from).method
    # Of composed queries it has read what is to change, not what is to be seen.
    if not isinstance(other, TowersConfig) or isinstance(other, ComposedConfig):
        raise UserError(
            f"method.text_from: {method.text_from} is a run of {other.kind}, which puts no texts "
            "beside images; name one of clip, vsepp, pvse, mite or uncsm"
        )
    _best(method.text_from)
    described = dict(zip(DESCRIBED, (other.text, other.text_head, other.embedding), strict=True))
    return recipe.model_copy(update={"method": method.model_copy(update=described)})


def replaced(given: Recipe, recipe: Recipe) -> list[str]:
    """Return a line of what a recipe gave and the text tower of another run took the place of."""
    ours, method = given.method, recipe.method
    names = [
        f"method.{name}"
        for name in DESCRIBED
        if name in ours.model_fields_set and getattr(ours, name) != getattr(method, name)
    ]
    if not names:
        return []
    return [
        f"method.text_from={getattr(method, 'text_from', None)}: what that run has takes the place "
        f"of the recipe's {', '.join(names)}"
    ]


def load_text_tower(method: Method, recipe: Recipe) -> None:
    """Read the weights of the text tower from the best checkpoint of the run that it is taken from.

    Its PIE-Net too, where that run has one of the same senses. A run that resumes has both itself.
    """
    config = recipe.method
    if not isinstance(config, PtfSimcmConfig) or config.text_from is None:
        return
    resumed = _own_checkpoint(recipe)
    folder = resumed or _best(config.text_from)
    saved_by = recipe if resumed else load_recipe(config.text_from)
    theirs = read_weights(folder, saved_by.training.zero.stage)
    own = method.state_dict()
    fitting = {
        name: weights
        for name, weights in theirs.items()
        if name.startswith("text.") and name in own and own[name].shape == weights.shape
    }
    needed = (name for name in own if name.startswith(("text.backbone.", "text.head.")))
    for name in needed:
        if name not in fitting:
            raise UserError(
                f"method.text_from: {folder} does not fit its recipe.yaml: no {name}; name a run "
                "that is as it was trained"
            )
    method.load_state_dict(fitting, strict=False)


def _best(run: str) -> Path:
    return Run(run).find_checkpoint("best")


def _own_checkpoint(recipe: Recipe) -> Path | None:
    """Return the newest checkpoint of a run that resumes, begun with the same text tower."""
    latest = Run(recipe.run).latest()
    if latest is None:
        return None
    begun = getattr(load_recipe(recipe.run).method, "text_from", None)
    return latest if begun == getattr(recipe.method, "text_from", None) else None
