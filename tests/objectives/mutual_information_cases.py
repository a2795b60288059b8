"""Mutual information in each of its forms, by all values of the critic."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.objectives.equivalence import BATCH, DIM, Case, Inputs, pair_batches
from xmodal.models.critics import ConcatenateCritic, EncodeAndDotCritic
from xmodal.objectives.mutual_information import MutualInformation, SampledMutualInformation

TILE = 5
OPTIONS: dict[str, Any] = {"moving_average": None, "tile": TILE}
POSITIONS = 3
LOG_AVERAGE = 0.7  # what the moving average of Donsker-Varadhan has come to


def mutual_information(
    estimator: Any, moving_average: float | None = None, widths: Sequence[int] = ()
) -> MutualInformation:
    given = {"moving_average": moving_average, "widths": widths}
    loss = MutualInformation(estimator=estimator, tile=TILE, **given).double()
    loss.log_average.fill_(LOG_AVERAGE)
    return loss


def share(module: nn.Module, inputs: Inputs) -> Tensor:
    return module(inputs["x"], inputs["y"], inputs["ids"])


def estimate(module: nn.Module, positives: Tensor, negatives: Tensor) -> Tensor:
    """Minus I of positives (positives,) and negatives (negatives,); none have a mean of 0."""
    count = max(len(negatives), 1)
    exponentials = negatives.exp().sum() / count
    match module.estimator:
        case "jsd":
            shifted = F.logsigmoid(positives).mean() + F.logsigmoid(-negatives).sum() / count
            return -shifted - 2 * math.log(2)
        case "nwj":
            return exponentials / math.e - positives.mean()
        case "dv" if not len(negatives):
            return -positives.mean()
        case "dv" if module.moving_average is None:
            return exponentials.log() - positives.mean()
        case "dv":
            rate, before = module.moving_average, math.exp(LOG_AVERAGE)
            average = (1 - rate) * before + rate * exponentials.detach()
            gradient = exponentials / average
            return exponentials.log().detach() + gradient - gradient.detach() - positives.mean()


def naive(module: nn.Module, inputs: Inputs) -> Tensor:
    x, y, ids = inputs["x"], inputs["y"], inputs["ids"]
    values = x @ y.T
    other = ids[:, None] != ids
    if module.estimator != "info_nce":
        return estimate(module, values.diag(), values[other])
    rows = [torch.cat([values[i, i, None], values[i][other[i]]]).exp() for i in range(len(x))]
    return -torch.stack([(row[0] / row.mean()).log() for row in rows]).mean()


def naive_of_positions(module: nn.Module, inputs: Inputs) -> Tensor:
    x, y, ids = inputs["x"], inputs["y"], inputs["ids"]
    if x.ndim == 4:
        x = x.reshape(len(x), DIM, -1).permute(0, 2, 1)
    values = torch.einsum("ipd,jd->ijp", x, y)
    other = ids[:, None] != ids
    own = values[range(len(x)), range(len(x))]
    if module.estimator != "info_nce":
        return estimate(module, own.reshape(-1), values[other].reshape(-1))
    costs = []
    for i in range(len(x)):
        rivals = values[other[:, i], i].reshape(-1).exp()
        costs += [(v.exp() / torch.cat([v.exp()[None], rivals]).mean()).log() for v in own[i]]
    return -torch.stack(costs).mean()


def position_batches() -> dict[str, Inputs]:
    """The batches of pairs, an image at several positions."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(BATCH, POSITIONS, DIM, generator=generator, dtype=torch.float64)
    whole = noise.round()
    return {
        name: {
            "x": inputs["x"][:, None] + (whole if name == "ties" else noise / 4),
            "y": inputs["y"],
            "ids": inputs["ids"],
        }
        for name, inputs in pair_batches().items()
    }


def map_batches() -> dict[str, Inputs]:
    generator = torch.Generator().manual_seed(2)
    return {
        name: inputs
        | {"x": torch.randn(BATCH, DIM, 2, 3, generator=generator, dtype=torch.float64)}
        for name, inputs in some_batches().items()
    }


def some_batches() -> dict[str, Inputs]:
    batches = pair_batches()
    return {name: batches[name] for name in ("random", "an image twice", "five labels")}


class Judged(nn.Module):
    """A critic and the objective on it."""

    def __init__(self, critic: nn.Module, objective: nn.Module) -> None:
        super().__init__()
        self.critic, self.objective = critic, objective
        self.estimator, self.moving_average = objective.estimator, objective.moving_average


def randomised(module: nn.Module) -> nn.Module:
    """The module in float64, all its parameters drawn, the same at each call."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.double().parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return module


def encoded(estimator: str) -> Judged:
    critic = EncodeAndDotCritic(DIM, DIM, units=9)
    return randomised(Judged(critic, MutualInformation(estimator=estimator, **OPTIONS)))


def share_of_encoded(module: Judged, inputs: Inputs) -> Tensor:
    return module.objective(*module.critic(inputs["x"], inputs["y"]), inputs["ids"])


def naive_of_encoded(module: Judged, inputs: Inputs) -> Tensor:
    x, y = inputs["x"], inputs["y"]
    is_map = x.ndim == 4
    if is_map:
        x = x.permute(0, 2, 3, 1).reshape(-1, DIM)
    x, y = encode(x, module.critic.x) / 9**0.5, encode(y, module.critic.y)  # over √units
    if is_map:
        x = x.view(len(y), -1, 9)
    formula = naive_of_positions if is_map else naive
    return formula(module, {"x": x, "y": y, "ids": inputs["ids"]})


def encode(rows: Tensor, side: nn.Module) -> Tensor:
    """One side of DIM's critic, by its parameters alone."""
    first, norm, _, second = side.block
    h = rows @ first.weight.T
    h = (h - h.mean(0)) / (h.var(0, correction=0) + 1e-5).sqrt() * norm.weight + norm.bias
    h = h.clamp(min=0) @ second.weight.T + second.bias + rows @ side.shortcut.weight.T
    h = (h - h.mean(1, keepdim=True)) / (h.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    return h * side.norm.weight + side.norm.bias


def sampled(estimator: str) -> Judged:
    critic = ConcatenateCritic(DIM, DIM, units=6)
    return randomised(Judged(critic, SampledMutualInformation(estimator=estimator, **OPTIONS)))


def share_of_sampled(module: Judged, inputs: Inputs) -> Tensor:
    return module.objective(inputs["x"], inputs["y"], inputs["ids"], module.critic)


def naive_of_sampled(module: Judged, inputs: Inputs) -> Tensor:
    x, y, ids = inputs["x"], inputs["y"], inputs["ids"]
    first, _, second, _, last = module.critic.layers

    def values(left: Tensor, right: Tensor) -> Tensor:
        h = torch.cat([left, right], 1)
        for layer in (first, second):
            h = (h @ layer.weight.T + layer.bias).clamp(min=0)
        return (h @ last.weight.T + last.bias)[:, 0]

    partners = []
    for i in range(len(ids)):
        after = [(i + k) % len(ids) for k in range(1, len(ids))]
        partners += [j for j in after if ids[j] != ids[i]][:1]
    positives = values(x, y)
    if not partners:
        return 0 * positives.sum() + estimate_alone(module, positives)
    negatives = values(x, y[partners])
    if module.estimator == "info_nce":
        mean = (positives.exp() + negatives.exp()) / 2
        return -(positives.exp() / mean).log().mean()
    return estimate(module, positives, negatives)


def estimate_alone(module: Judged, positives: Tensor) -> Tensor:
    """The estimate without negatives; InfoNCE then has only the positive in its mean."""
    if module.estimator == "info_nce":
        return positives.sum() * 0
    return estimate(module, positives, positives[:0])


FORMS: dict[str, dict[str, Any]] = {
    "jsd": {"estimator": "jsd"},
    "dv": {"estimator": "dv"},
    "dv, moving average": {"estimator": "dv", "moving_average": 0.1},
    "nwj": {"estimator": "nwj"},
    "info_nce": {"estimator": "info_nce"},
}
CASES = [
    *(
        Case(
            f"mutual information, {name}",
            partial(mutual_information, **given),
            share,
            naive,
            pair_batches(),
        )
        for name, given in FORMS.items()
    ),
    *(
        Case(
            f"mutual information of positions, {name}",
            partial(mutual_information, **given),
            share,
            naive_of_positions,
            position_batches(),
        )
        for name, given in FORMS.items()
    ),
    *(
        Case(
            f"encode-and-dot critic, {name}",
            partial(encoded, estimator),
            share_of_encoded,
            naive_of_encoded,
            batches,
        )
        for name, estimator, batches in (
            ("jsd", "jsd", some_batches()),
            ("jsd of maps", "jsd", map_batches()),
            ("info_nce of maps", "info_nce", map_batches()),
        )
    ),
    *(
        Case(
            f"concatenate critic, {estimator}",
            partial(sampled, estimator),
            share_of_sampled,
            naive_of_sampled,
            pair_batches(),
        )
        for estimator in ("jsd", "dv", "nwj", "info_nce")
    ),
]
