"""The text tower of another run, which PTF-SimCM can begin with (`method.text_from`)."""

from pathlib import Path

from xmodal.errors import UserError
from xmodal.methods.config import PtfSimcmConfig, TowersConfig
from xmodal.methods.method import Method
from xmodal.recipe import Recipe, load_recipe
from xmodal.training.checkpoints import read_weights
from xmodal.training.run import Run


def with_text_tower(recipe: Recipe) -> Recipe:
    """Return a recipe whose text tower is described as in the run that it is taken from, if any.

    Raises `UserError` where that is no run with a text tower and a checkpoint.
    """
    method = recipe.method
    if not isinstance(method, PtfSimcmConfig) or method.text_from is None:
        return recipe
    other = load_recipe(method.text_from).method
    if not isinstance(other, TowersConfig):
        raise UserError(
            f"method.text_from: {method.text_from} is a run of {other.kind}, which puts no texts "
            "beside images; name one of clip, vsepp, pvse, mite or uncsm"
        )
    _best(method.text_from)
    described = {
        "text": other.text,
        "text_head": other.text_head,
        "sentence": other.embedding,
    }
    return recipe.model_copy(update={"method": method.model_copy(update=described)})


def load_text_tower(method: Method, recipe: Recipe) -> None:
    """Read the weights of the text tower from the best checkpoint of the run that it is taken from.

    Its PIE-Net too, where that run has one of the same senses.
    """
    config = recipe.method
    if not isinstance(config, PtfSimcmConfig) or config.text_from is None:
        return
    folder = _best(config.text_from)
    theirs = read_weights(folder, load_recipe(config.text_from).training.zero)
    own = method.state_dict()
    fitting = {
        name: weights
        for name, weights in theirs.items()
        if name.startswith("text.") and name in own and own[name].shape == weights.shape
    }
    needed = (name for name in own if name.startswith(("text.backbone.", "text.head.")))
    for name in needed:
        if name not in fitting:
            raise UserError(f"method.text_from: {folder} does not fit its recipe.yaml: no {name}")
    method.load_state_dict(fitting, strict=False)


def _best(run: str) -> Path:
    return Run(run).find_checkpoint("best")
