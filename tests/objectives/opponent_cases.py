"""Objectives with an opponent that the same backward trains: prior matching, modality adversary."""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.objectives.equivalence import BATCH, DIM, Case, Inputs, pair_batches
from tests.objectives.mutual_information_cases import randomised
from xmodal.models.adversary import ModalityClassifier
from xmodal.models.critics import PriorDiscriminator
from xmodal.objectives.adversarial import ModalityAdversary
from xmodal.objectives.config import AdversarialConfig, PriorConfig
from xmodal.objectives.prior import PriorMatching

SEED = 5
WEIGHT, PENALTY, PROGRESS = 0.3, 0.7, 0.2


class Opposed(nn.Module):
    """An opponent and the objective that it is part of."""

    def __init__(self, opponent: nn.Module, objective: nn.Module) -> None:
        super().__init__()
        self.opponent, self.objective = opponent, objective


def copied(values: Tensor, weights: list[Tensor], biases: list[Tensor], slope: float) -> Tensor:
    """A network by its weights, with leaky ReLUs between the layers."""
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        values = F.leaky_relu(values @ weight.T + bias, slope)
    return values @ weights[-1].T + biases[-1]


def layers_of(opponent: nn.Module, *, detached: bool) -> tuple[list[Tensor], list[Tensor]]:
    named = list(opponent.named_parameters())
    weights = [one for name, one in named if "weight" in name]
    biases = [one for name, one in named if "bias" in name]
    return tuple([one.detach() if detached else one for one in kind] for kind in (weights, biases))


def prior(penalty: float) -> Opposed:
    config = PriorConfig(weight=WEIGHT, penalty=penalty)
    return randomised(Opposed(PriorDiscriminator(DIM, (8, 5)), PriorMatching(config)))


def share_of_prior(module: Opposed, inputs: Inputs) -> Tensor:
    return module.objective(inputs["x"], module.opponent, SEED)


def naive_prior(module: Opposed, inputs: Inputs) -> Tensor:
    z = 1 / (1 + (-inputs["x"]).exp())
    generator = torch.Generator().manual_seed(SEED)
    u = torch.rand(BATCH, DIM, generator=generator, dtype=torch.float64)
    fixed = layers_of(module.opponent, detached=True)
    encoders = -F.logsigmoid(copied(z, *fixed, 0.0)).mean()
    weights, biases = layers_of(module.opponent, detached=False)
    loss, squares = torch.zeros(()).double(), []
    for samples, sign in ((u, 1), (z.detach(), -1)):
        loss = loss - F.logsigmoid(sign * copied(samples, weights, biases, 0.0)).mean()
        for row in samples:  # the slope of a network of ReLUs, by hand
            first = weights[0] @ row + biases[0]
            second = weights[1] @ first.clamp(min=0) + biases[1]
            slope = (weights[2] * (second > 0)) @ (weights[1] * (first > 0)) @ weights[0]
            squares.append(slope.square().sum())
    penalty = module.objective.config.penalty * torch.stack(squares).mean()
    return WEIGHT * encoders + loss + penalty


def adversary(encoders: str) -> Opposed:
    objective = ModalityAdversary(AdversarialConfig(encoders=encoders, weight=WEIGHT))
    objective.progress = PROGRESS
    return randomised(Opposed(ModalityClassifier(DIM, (8, 5), dropout=0.0), objective))


def share_of_adversary(module: Opposed, inputs: Inputs) -> Tensor:
    return module.objective(inputs["x"], inputs["y"], module.opponent)


def naive_adversary(module: Opposed, inputs: Inputs) -> Tensor:
    x, y = inputs["x"], inputs["y"]
    weight = WEIGHT * (2 / (1 + math.exp(-10 * PROGRESS)) - 1)

    def parts(images: Tensor, texts: Tensor, *, detached: bool) -> list[Tensor]:
        layers = layers_of(module.opponent, detached=detached)
        return [copied(side, *layers, 0.01).log_softmax(1) for side in (images, texts)]

    v, t = parts(x.detach(), y.detach(), detached=False)
    classifier = -(v[:, 0] + t[:, 1]).sum() / (2 * BATCH)
    v, t = parts(x, y, detached=True)
    match module.objective.config.encoders:
        case "reversal":  # the value is the classifier's alone
            against = weight * (v[:, 0] + t[:, 1]).sum() / (2 * BATCH)
            return classifier + against - against.detach()
        case "flipped":
            return classifier - weight * (v[:, 1] + t[:, 0]).sum() / (2 * BATCH)
        case "confusion":
            return classifier - weight * (v.sum() + t.sum()) / (4 * BATCH)


def batches() -> dict[str, Inputs]:
    every = pair_batches()
    return {name: every[name] for name in ("random", "scores of 100", "all alike")}


CASES = [
    *(
        Case(name, partial(prior, penalty), share_of_prior, naive_prior, batches())
        for name, penalty in (("prior", 0.0), ("prior, penalty", PENALTY))
    ),
    *(
        Case(
            f"modality adversary, {encoders}",
            partial(adversary, encoders),
            share_of_adversary,
            naive_adversary,
            batches(),
        )
        for encoders in ("reversal", "flipped", "confusion")
    ),
]
