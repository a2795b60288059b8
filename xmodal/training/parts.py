"""Which parts of a method a stage trains, which are locked, how fast, and what decays."""

from fnmatch import fnmatch
from operator import itemgetter
from typing import Any

from torch import nn

from xmodal.errors import UserError
from xmodal.training.config import AnyOptimizerConfig


def select_trained(method: nn.Module, patterns: list[str]) -> None:
    """Let gradients into the parameters that match a pattern, and into no others.

    A pattern matches a parameter's name or that of a module around it (`text`, `image.head`, `*`).
    Raises `UserError` for a pattern that matches nothing.
    """
    for pattern in patterns:
        _check_part(method, pattern, "train")
    for name, parameter in method.named_parameters():
        parameter.requires_grad_(any(_matches(name, pattern) for pattern in patterns))


def locked(module: nn.Module) -> bool:
    """Tell whether a module has parameters and none of them is trained."""
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def set_modes(method: nn.Module, *, freeze_batch_norm: bool) -> None:
    """Put trained parts into training mode and locked ones into evaluation mode.

    With `freeze_batch_norm`, batch normalisation of images keeps its statistics: pretrained ones
    are better than those of a batch, and depend on no other sample.
    """
    method.train()
    for module in method.modules():
        is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if locked(module) or (is_norm and freeze_batch_norm):
            module.eval()


def parameter_groups(method: nn.Module, optimizer: AnyOptimizerConfig) -> list[dict[str, Any]]:
    """Return optimiser groups of the trained parameters, each with its `factor` of the rate.

    Matrices decay, vectors do not. Raises `UserError` for a factor of a part that there is not.
    """
    for pattern in optimizer.factors:
        _check_part(method, pattern, "optimizer: factors")
    weight_decay = getattr(optimizer, "weight_decay", 0.0)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            decay = weight_decay if parameter.ndim >= 2 else 0.0
            groups.setdefault((decay, _factor(name, optimizer)), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "factor": factor}
        for (decay, factor), parameters in sorted(groups.items(), key=itemgetter(0), reverse=True)
    ]


def _factor(name: str, optimizer: AnyOptimizerConfig) -> float:
    matching = [factor for part, factor in optimizer.factors.items() if _matches(name, part)]
    return matching[-1] if matching else 1.0


def _check_part(method: nn.Module, pattern: str, where: str) -> None:
    names = [name for name, _ in method.named_parameters()]
    if not any(_matches(name, pattern) for name in names):
        parts = sorted({".".join(name.split(".")[:depth]) for name in names for depth in (1, 2)})
        raise UserError(
            f"stages: {where}: {pattern!r} is no part of the method; parts: {', '.join(parts)}"
        )


def _matches(name: str, pattern: str) -> bool:
    return fnmatch(name, pattern) or fnmatch(name, f"{pattern}.*")
