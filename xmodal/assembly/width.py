"""Models cut to the first numbers of their embeddings (Matryoshka: Kusupati et al. 2022)."""

from torch import nn

from xmodal.assembly.recipe import Recipe
from xmodal.errors import UserError
from xmodal.formats.onnx_model import OnnxMethod
from xmodal.methods.clip import Clip, ClipConfig
from xmodal.methods.distilled import Distilled
from xmodal.methods.method import Method
from xmodal.models.heads.mlp import Mlp
from xmodal.objectives.global_contrastive import GlobalContrastive
from xmodal.objectives.matryoshka import Matryoshka, MatryoshkaConfig
from xmodal.objectives.matryoshka_of_each import MatryoshkaOfEach
from xmodal.objectives.mutual_information import Estimator
from xmodal.objectives.proxies import Proxies


def cut_to_width(method: Method, recipe: Recipe, width: int) -> Recipe:
    """Cut a method's embeddings to their first `width` numbers, and return the recipe of what is
    left: a method of that width, with the objective that it had at each.

    Raises `UserError` where they are not as wide, or do not come from heads of a two-tower method.
    """
    method, config = _checked(method, recipe, width)
    if width < config.embedding:
        for side in ("image", "text"):
            _cut_head(getattr(method, side).head, side, width)
    objective = config.objective
    if isinstance(objective, MatryoshkaConfig):
        assert isinstance(method.loss, Matryoshka | MatryoshkaOfEach)
        objective, method.loss = objective.objective, method.loss.at(width)
    for part in method.loss.modules():
        if isinstance(part, Proxies | Estimator | GlobalContrastive):
            part.cut(width)
    if isinstance(method, Distilled):
        method.features = method.features.cut(width)
    left = config.model_copy(update={"embedding": width, "objective": objective})
    return recipe.model_copy(update={"method": left})


def _checked(method: Method, recipe: Recipe, width: int) -> tuple[Clip, ClipConfig]:
    if isinstance(width, bool) or not isinstance(width, int):
        raise UserError(f"width {width!r}: it is a whole number")
    if isinstance(method, OnnxMethod):
        raise UserError(f"width {width}: an ONNX folder has one width; export with --width {width}")
    if not isinstance(method, Clip):
        raise UserError(f"width {width}: embeddings of kind: {recipe.method.kind} cannot be cut")
    config = recipe.method
    assert isinstance(config, ClipConfig)
    if not 1 <= width <= config.embedding:
        raise UserError(f"width {width}: give one of 1 to {config.embedding}, those of embeddings")
    return method, config


def _cut_head(head: nn.Module, side: str, width: int) -> None:
    """Leave the first `width` outputs of a head's last layer."""
    if not isinstance(head, Mlp):
        raise UserError(
            f"width {width}: only the outputs of method.{side}_head: {{kind: mlp}} can be cut"
        )
    last = [layer for layer in head if isinstance(layer, nn.Linear)][-1]
    last.out_features = width
    last.weight = nn.Parameter(last.weight[:width].detach().clone())
    if last.bias is not None:
        last.bias = nn.Parameter(last.bias[:width].detach().clone())
