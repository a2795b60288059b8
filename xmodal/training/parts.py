"""Parts of a method in a stage: trained or locked, their learning rates, weight decay."""

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from operator import itemgetter
from typing import Any

from torch import nn

from xmodal.errors import UserError
from xmodal.training.config import StageConfig


def select_trained(method: nn.Module, patterns: list[str]) -> None:
    """Enable gradients of the parameters that match a pattern, and of no others.

    A pattern matches a parameter's name or that of a module around it (`text`, `image.head`, `*`).
    Raises `UserError` for a pattern that matches nothing.
    """
    for pattern in patterns:
        _check_part(method, pattern, "train")
    for name, parameter in method.named_parameters():
        parameter.requires_grad_(any(_matches(name, pattern) for pattern in patterns))


@contextmanager
def unchanged(method: nn.Module) -> Iterator[None]:
    """Put back which parameters are trained, and all modes, after a block that looks at others."""
    trained = [(parameter, parameter.requires_grad) for parameter in method.parameters()]
    modes = [(module, module.training) for module in method.modules()]
    try:
        yield
    finally:
        for parameter, requires_grad in trained:
            parameter.requires_grad_(requires_grad)
        for module, training in modes:
            module.training = training


def locked(module: nn.Module) -> bool:
    """Return whether a module has parameters and none of them is trained."""
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def set_modes(method: nn.Module, *, freeze_batch_norm: bool) -> None:
    """Put trained parts into training mode and locked ones into evaluation mode.

    With `freeze_batch_norm`, batch normalisation in the image encoder keeps its statistics:
    pretrained ones are better than those of a batch, and depend on no other sample.
    """
    method.train()
    for name, module in method.named_modules():
        is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        pretrained = freeze_batch_norm and is_norm and _matches(name, "image.backbone")
        if locked(module) or pretrained:
            module.eval()


def parameter_groups(method: nn.Module, stage: StageConfig) -> list[dict[str, Any]]:
    """Return optimiser groups of the trained parameters.

    Each has the names of its parameters, its `factor` of the rate, and whether this is `constant`
    while the schedule falls.
    Matrices decay, vectors do not. Raises `UserError` where the stage names a part that there is
    not.
    """
    factors, constant = stage.optimizer.factors, stage.schedule.constant
    fallback = getattr(stage.optimizer, "fallback", ())
    for pattern in factors:
        _check_part(method, pattern, "optimizer: factors")
    for pattern in constant:
        _check_part(method, pattern, "schedule: constant")
    for pattern in fallback:
        _check_part(method, pattern, "optimizer: fallback")
    # Which groups there are does not depend on how much decays: the state of an optimiser fits one
    # of another decay, zero too.
    weight_decay = getattr(stage.optimizer, "weight_decay", None)
    groups: dict[tuple[bool, float, bool, bool], dict[str, nn.Parameter]] = {}
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            decays = weight_decay is not None and parameter.ndim >= 2
            matching = [factor for part, factor in factors.items() if _matches(name, part)]
            stays = any(_matches(name, part) for part in constant)
            falls_back = any(_matches(name, part) for part in fallback)
            key = decays, matching[-1] if matching else 1.0, stays, falls_back
            groups.setdefault(key, {})[name] = parameter
    return [
        {
            "params": list(parameters.values()),
            "names": list(parameters),
            "weight_decay": weight_decay if decays else 0.0,
            "factor": factor,
            "constant": stays,
            "use_fallback": falls_back,
        }
        for (decays, factor, stays, falls_back), parameters in sorted(
            groups.items(), key=itemgetter(0), reverse=True
        )
    ]


def _check_part(method: nn.Module, pattern: str, where: str) -> None:
    names = [name for name, _ in method.named_parameters()]
    if not any(_matches(name, pattern) for name in names):
        parts = sorted({".".join(name.split(".")[:depth]) for name in names for depth in (1, 2)})
        raise UserError(
            f"stages: {where}: {pattern!r} is no part of the method; parts: {', '.join(parts)}"
        )


def _matches(name: str, pattern: str) -> bool:
    return fnmatch(name, pattern) or fnmatch(name, f"{pattern}.*")
