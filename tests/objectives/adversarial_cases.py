"""Objectives with an opponent of the encoders: prior matching, modality classifiers."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.objectives.equivalence import BATCH, DIM, Case, Inputs, pair_batches
from tests.objectives.mutual_information_cases import randomised
from xmodal.models.adversary import ModalityClassifier
from xmodal.models.critics import PriorDiscriminator
from xmodal.objectives.adversarial import STEP, ModalityAdversary, ModalityClassification
from xmodal.objectives.prior import PriorMatching

SEED = 5
WEIGHT, PENALTY = 0.3, 0.7


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
    objective = PriorMatching(weight=WEIGHT, penalty=penalty)
    return randomised(Opposed(PriorDiscriminator(DIM, (8, 5)), objective))


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
    penalty = module.objective.penalty * torch.stack(squares).mean()
    return WEIGHT * encoders + loss + penalty


def opposed(objective: nn.Module) -> Opposed:
    return randomised(Opposed(ModalityClassifier(DIM, (8, 5), scale=False), objective))


def classification(penalty: float = 0.0) -> Opposed:
    return opposed(ModalityClassification(penalty=penalty))


def adversary(encoders: str) -> Opposed:
    return opposed(ModalityAdversary(encoders=encoders))


def share_of_modality(module: Opposed, inputs: Inputs) -> Tensor:
    return module.objective(inputs["x"], inputs["y"], module.opponent)


def share_of_penalised(module: Opposed, inputs: Inputs) -> Tensor:
    return module.objective(inputs["x"], inputs["y"], module.opponent, SEED)


def log_shares(module: Opposed, inputs: Inputs, *, of: str) -> tuple[Tensor, Tensor]:
    """Logarithms of what the classifier gives both sides, with gradients `of` it or of these."""
    layers = layers_of(module.opponent, detached=of != "classifier")
    sides = (inputs[name].reshape(-1, DIM) for name in ("x", "y"))
    v, t = (side.detach() if of == "classifier" else side for side in sides)
    return tuple(copied(side, *layers, 0.01).log_softmax(1) for side in (v, t))


def naive_classification(module: Opposed, inputs: Inputs) -> Tensor:
    v, t = log_shares(module, inputs, of="classifier")
    return -(v[:, 0].mean() + t[:, 1].mean()) / 2


def naive_penalised(module: Opposed, inputs: Inputs) -> Tensor:
    sides = [inputs[name].detach().reshape(-1, DIM) for name in ("x", "y")]
    generator = torch.Generator().manual_seed(SEED)
    drawn = [torch.randn(s.shape, generator=generator, dtype=s.dtype) / DIM**0.5 for s in sides]
    layers = layers_of(module.opponent, detached=False)
    squares = []
    for side, directions in zip(sides, drawn, strict=True):
        here, there = (copied(one, *layers, 0.01) for one in (side, side + STEP * directions))
        slope = ((there[:, 0] - there[:, 1]) - (here[:, 0] - here[:, 1])) / STEP
        squares.append(slope.square().mean())
    return naive_classification(module, inputs) + PENALTY / 2 * torch.stack(squares).mean()


def naive_adversary(module: Opposed, inputs: Inputs) -> Tensor:
    v, t = log_shares(module, inputs, of="embeddings")
    match module.objective.encoders:
        case "reversal":
            return (v[:, 0].mean() + t[:, 1].mean()) / 2
        case "flipped":
            return -(v[:, 1].mean() + t[:, 0].mean()) / 2
        case "confusion":
            return -(v.mean() + t.mean()) / 2


def batches() -> dict[str, Inputs]:
    every = pair_batches()
    return {name: every[name] for name in ("random", "scores of 100", "all alike")}


def of_embeddings() -> dict[str, Inputs]:
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(BATCH, 2, DIM, generator=generator, dtype=torch.float64)
    texts = torch.randn(BATCH, 3, DIM, generator=generator, dtype=torch.float64)
    return {"several": {"x": images, "y": texts}}


CASES = [
    *(
        Case(name, partial(prior, penalty), share_of_prior, naive_prior, batches())
        for name, penalty in (("prior", 0.0), ("prior, penalty", PENALTY))
    ),
    Case(
        "modality classification",
        classification,
        share_of_modality,
        naive_classification,
        batches() | of_embeddings(),
    ),
    Case(
        "modality classification, penalty",
        partial(classification, PENALTY),
        share_of_penalised,
        naive_penalised,
        batches() | of_embeddings(),
        dealt=True,
    ),
    *(
        Case(
            f"modality adversary, {encoders}",
            partial(adversary, encoders),
            share_of_modality,
            naive_adversary,
            batches() | of_embeddings(),
        )
        for encoders in ("reversal", "flipped", "confusion")
    ),
]
