"""Similar and dissimilar pairs before a metric network, a pair at a time."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.objectives.equivalence import DIM, Case, Inputs, pair_batches
from tests.objectives.label_sampling_cases import listed
from tests.objectives.mutual_information_cases import randomised
from xmodal.objectives.label_sampling import sample_triplets
from xmodal.objectives.metric_pairs import MetricPairs

SEED = 5


class Comparison(nn.Module):
    """A small network on pairs, and the objective that trains it."""

    def __init__(self, objective: MetricPairs) -> None:
        super().__init__()
        self.objective = objective
        self.of_image, self.of_text = nn.Linear(DIM, 5), nn.Linear(DIM, 5)
        self.last = nn.Linear(5, 2)

    def forward(self, images: Tensor, texts: Tensor) -> Tensor:
        return self.last((self.of_image(images) + self.of_text(texts)).tanh())


def comparison(**given: object) -> Comparison:
    return randomised(Comparison(MetricPairs(**given)))


def share(module: Comparison, inputs: Inputs) -> Tensor:
    return module.objective(inputs["x"], inputs["y"], inputs["ids"], module, SEED)


def naive(module: Comparison, inputs: Inputs) -> Tensor:
    """The mean over pairs of an image with texts and of a text with images."""
    x, y, ids = inputs.values()
    objective = module.objective
    weight_v, bias_v, weight_t, bias_t, weight, bias = module.parameters()
    costs = []
    drawn = sample_triplets(ids.repeat(2), ids, count=objective.count, seed=SEED)
    for a, *partners in listed(drawn):
        for partner, is_similar in zip(partners, (True, False), strict=True):
            v, t = (x[a], y[partner]) if a < len(x) else (x[partner], y[a - len(x)])
            hidden = (weight_v @ v + bias_v + weight_t @ t + bias_t).tanh()
            dissimilar, similar = weight @ hidden + bias
            f = similar - dissimilar if is_similar else dissimilar - similar
            costs.append((1 - f).relu() if objective.loss == "hinge" else -F.logsigmoid(f))
    nothing = 0 * (x.sum() + y.sum() + sum(parameter.sum() for parameter in module.parameters()))
    return nothing + (torch.stack(costs).mean() if costs else 0)


CASES = [
    Case(f"metric pairs, {name}", module, share, naive, pair_batches(), dealt=True)
    for name, module in (
        ("cross entropy", comparison),
        ("hinge", partial(comparison, loss="hinge", count=2)),
    )
]
