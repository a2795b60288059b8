"""Losses of proxies, by the full matrix of embeddings and proxies."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.objectives.equivalence import DIM, Case, Inputs, Objective, pair_batches
from tests.objectives.mutual_information_cases import randomised
from xmodal.objectives.norm_softmax import NormSoftmax, PairedNormSoftmax
from xmodal.objectives.proxy_anchor import PairedProxyAnchor, ProxyAnchor

CLASSES, TILE = 13, 5


def share(module: nn.Module, inputs: Inputs) -> Tensor:
    return module(inputs["x"], inputs["labels"])


def cosines(module: nn.Module, inputs: Inputs) -> Tensor:
    x, proxies = inputs["x"], module.proxies.weight
    return (x / x.norm(dim=1, keepdim=True)) @ (proxies / proxies.norm(dim=1, keepdim=True)).T


def naive_softmax(module: NormSoftmax, inputs: Inputs) -> Tensor:
    return F.cross_entropy(cosines(module, inputs) / module.temperature, inputs["labels"])


def naive_anchor(module: ProxyAnchor, inputs: Inputs) -> Tensor:
    """The mean over proxies of each one's positives, and of each one's negatives."""
    scores, labels = cosines(module, inputs), inputs["labels"]
    positive, negative = [], []
    for c in range(CLASSES):
        own = module.scale * (module.margin - scores[labels == c, c])
        others = module.scale * (module.margin + scores[labels != c, c])
        if len(own):
            positive.append((1 + own.exp().sum()).log())
        negative.append((1 + others.exp().sum()).log())
    return torch.stack(positive).mean() + torch.stack(negative).mean()


def share_of_pairs(module: nn.Module, inputs: Inputs) -> Tensor:
    return module(inputs["x"], inputs["y"], inputs["ids"])


def of_pairs(naive: Objective, module: nn.Module, inputs: Inputs) -> Tensor:
    """A loss of images and texts as rows alike, of classes that are numbered as they come."""
    numbers: dict[int, int] = {}
    labels = [numbers.setdefault(one, len(numbers)) for one in inputs["ids"].tolist()]
    both = {"x": torch.cat([inputs["x"], inputs["y"]]), "labels": torch.tensor(labels).repeat(2)}
    return naive(module, both)


def batches() -> dict[str, Inputs]:
    made = {name: {"x": b["x"], "labels": b["ids"] % CLASSES} for name, b in pair_batches().items()}
    made["some classes"] = {"x": made["random"]["x"], "labels": made["random"]["labels"] % 4}
    return {name: made[name] for name in ("random", "one label", "all alike", "some classes")}


def proxies(kind: type, width: int = DIM, **given: float) -> nn.Module:
    return randomised(kind(CLASSES, width, tile=TILE, **given))


def paired(kind: type, width: int = DIM, **given: float) -> nn.Module:
    module = proxies(kind, width, **given)
    module.numbers.make_room()
    return module


def pairs() -> dict[str, Inputs]:
    made = pair_batches()
    made["thirteen labels"] = made["random"] | {"ids": made["random"]["ids"] % CLASSES}
    return {name: made[name] for name in ("five labels", "one label", "thirteen labels")}


CASES = [
    Case("norm softmax of pairs", partial(paired, PairedNormSoftmax, temperature=0.2),
         share_of_pairs, partial(of_pairs, naive_softmax), pairs(), dealt=True),
    Case("proxy anchor of pairs", partial(paired, PairedProxyAnchor, scale=8.0), share_of_pairs,
         partial(of_pairs, naive_anchor), pairs(), dealt=True),
    Case("norm softmax", partial(proxies, NormSoftmax, temperature=0.2), share, naive_softmax,
         batches()),
    Case("proxy anchor", partial(proxies, ProxyAnchor, scale=8.0), share, naive_anchor, batches()),
]  # fmt: skip
