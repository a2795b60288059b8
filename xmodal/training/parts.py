"""Which parts of a method a stage trains, which are locked, and what decays."""

from fnmatch import fnmatch
from typing import Any

from torch import nn

from xmodal.errors import UserError


def select_trained(method: nn.Module, patterns: list[str]) -> None:
    """Let gradients into the parameters that match a pattern, and into no others.

    A pattern matches a parameter's name or that of a module around it (`text`, `image.head`, `*`).
    Raises `UserError` for a pattern that matches nothing.
    """
    names = [name for name, _ in method.named_parameters()]
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in names):
            parts = sorted(
                {".".join(name.split(".")[:depth]) for name in names for depth in (1, 2)}
            )
            raise UserError(
                f"stages: train: {pattern!r} is no part of the method; parts: {', '.join(parts)}"
            )
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


def decay_groups(method: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return optimiser groups of the trained parameters: matrices decay, vectors do not."""
    trained = [(name, p) for name, p in method.named_parameters() if p.requires_grad]
    matrices = [p for _, p in trained if p.ndim >= 2]
    vectors = [p for _, p in trained if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _matches(name: str, pattern: str) -> bool:
    return fnmatch(name, pattern) or fnmatch(name, f"{pattern}.*")
