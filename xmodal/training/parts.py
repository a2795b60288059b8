"""Parts of a method in a stage: trained or locked, their learning rates, weight decay."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from operator import itemgetter
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import nn

from xmodal.components.validation import nearest
from xmodal.errors import UserError
from xmodal.models.adapters import adapted_weights
from xmodal.models.layer_groups import layer_factors, locked_layers
from xmodal.training.config import StageConfig

NO_LOCK: Mapping[str, int | Sequence[str]] = MappingProxyType({})


def select_trained(
    method: nn.Module,
    patterns: list[str],
    lock: Mapping[str, int | Sequence[str]] = NO_LOCK,
    *,
    key: str = "stages",
) -> None:
    """Enable gradients of the parameters that match a pattern, and of no others.

    A pattern matches a parameter's name or that of a module around it (`text`, `image.head`, `*`).
    Layers of `lock` stay locked, and so do weights of a tower with adapters. Raises `UserError` for
    a pattern that matches nothing, or only what is locked.
    """
    for pattern in patterns:
        _check_part(method, pattern, f"{key}.train")
    kept = locked_layers(method, lock) | adapted_weights(method)
    trained: set[str] = set()
    for pattern in patterns:
        found = {name for name, _ in method.named_parameters() if _matches(name, pattern)} - kept
        if not found:
            raise UserError(
                f"{key}.train: all that {pattern!r} names stays locked, by `lock` or below "
                "adapters (lora); remove it, or lock less"
            )
        trained |= found
    for name, parameter in method.named_parameters():
        parameter.requires_grad_(name in trained)


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


class Treatment(NamedTuple):
    """Settings that the parameters of an optimiser's group share."""

    decays: bool
    factor: float  # of the rate
    constant: bool  # while the schedule falls
    use_fallback: bool


def parameter_groups(
    method: nn.Module, stage: StageConfig, key: str = "stages"
) -> list[dict[str, Any]]:
    """Return optimiser groups of the trained parameters.

    Each has the names of its parameters, its `factor` of the rate, and whether this is `constant`
    while the schedule falls. Matrices decay, vectors do not. Raises `UserError` where the stage
    names a part that there is not.
    """
    # Which groups there are does not depend on how much decays: the state of an optimiser fits one
    # of another decay, zero too.
    weight_decay = getattr(stage.optimizer, "weight_decay", None)
    groups: dict[Treatment, dict[str, nn.Parameter]] = {}
    for name, treatment in _treatments(method, stage, key).items():
        groups.setdefault(treatment, {})[name] = method.get_parameter(name)
    return [
        {
            "params": list(parameters.values()),
            "names": list(parameters),
            "weight_decay": weight_decay if treatment.decays else 0.0,
            "factor": treatment.factor,
            "constant": treatment.constant,
            "use_fallback": treatment.use_fallback,
        }
        for treatment, parameters in sorted(groups.items(), key=itemgetter(0), reverse=True)
    ]


def _treatments(method: nn.Module, stage: StageConfig, key: str) -> dict[str, Treatment]:
    """Return what a stage does with each trained parameter, by name."""
    optimizer, constant = stage.optimizer, stage.schedule.constant
    fallback = getattr(optimizer, "fallback", ())
    parts = {"optimizer.factors": optimizer.factors, "schedule.constant": constant}
    for where, patterns in (parts | {"optimizer.fallback": fallback}).items():
        for pattern in patterns:
            _check_part(method, pattern, f"{key}.{where}")
    by_layer = layer_factors(method, optimizer.layer_decay)
    found = {}
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            factors = [one for part, one in optimizer.factors.items() if _matches(name, part)]
            found[name] = Treatment(
                hasattr(optimizer, "weight_decay") and parameter.ndim >= 2,
                (factors[-1] if factors else 1.0) * by_layer.get(name, 1.0),
                any(_matches(name, part) for part in constant),
                any(_matches(name, part) for part in fallback),
            )
    return found


def _check_part(method: nn.Module, pattern: str, where: str) -> None:
    names = [name for name, _ in method.named_parameters()]
    if not any(_matches(name, pattern) for name in names):
        parts = sorted({".".join(name.split(".")[:depth]) for name in names for depth in (1, 2)})
        raise UserError(
            f"{where}: {pattern!r} is no part of the method{nearest(pattern, parts)}; parts: "
            + ", ".join(parts)
        )


def _matches(name: str, pattern: str) -> bool:
    return fnmatch(name, pattern) or fnmatch(name, f"{pattern}.*")
