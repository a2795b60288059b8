"""Formulas of objectives over the full matrix of scores, in plain PyTorch and its autograd."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MARGIN = 0.2
# Those of the papers leave nothing to compare of pairs that are as easy as these.
EPSILON, TEMPERATURE = 1.0, 0.1
EIGHTHS = (1, 2, 4, 8)  # of the width: those that are trained together


def naive_norm_softmax(module: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    proxies: Tensor = module.proxies.weight  # type: ignore[union-attr, assignment]
    return F.cross_entropy(F.normalize(x) @ F.normalize(proxies).T / TEMPERATURE, labels)


def naive_info_nce(x: Tensor, y: Tensor) -> Tensor:
    scores = x @ y.T / 0.07
    own = torch.arange(len(x), device=x.device)
    return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2


def naive_matryoshka(x: Tensor, y: Tensor) -> Tensor:
    """InfoNCE at each width, one after the other."""
    widths = [x.shape[1] * part // 8 for part in EIGHTHS]
    costs = [naive_info_nce(F.normalize(x[:, :w]), F.normalize(y[:, :w])) for w in widths]
    return torch.stack(costs).sum()


def of_teacher(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return a teacher's embeddings of pairs, which are nearer to each other."""
    x, y = x.detach(), y.detach()
    return F.normalize(x + y, dim=1), y


def naive_affinity(x: Tensor, y: Tensor) -> Tensor:
    """The divergence of both softmaxes, as MobileCLIP's authors write it."""
    teacher_x, teacher_y = of_teacher(x, y)
    scores, targets = x @ y.T / 0.07, 100 * teacher_x @ teacher_y.T
    both = [
        F.kl_div(own.log_softmax(1), target.log_softmax(1), reduction="batchmean", log_target=True)
        for own, target in ((scores, targets), (scores.T, targets.T))
    ]
    return (both[0] + both[1]) / 2


def naive_sigmoid(x: Tensor, y: Tensor) -> Tensor:
    signs = 2 * torch.eye(len(x), device=x.device) - 1
    return -F.logsigmoid(signs * (10 * x @ y.T - 10)).sum() / len(x)


def naive_hardest_triplet(x: Tensor, y: Tensor) -> Tensor:
    """VSE++, as its authors' code has it: both costs over the full matrix, then the maxima."""
    scores = x @ y.T
    own = scores.diag()
    eye = torch.eye(len(x), dtype=torch.bool, device=x.device)
    by_rows = (MARGIN + scores - own[:, None]).clamp(min=0).masked_fill(eye, 0)
    by_columns = (MARGIN + scores - own).clamp(min=0).masked_fill(eye, 0)
    return by_rows.max(1)[0].mean() + by_columns.max(0)[0].mean()


def naive_jsd(x: Tensor, y: Tensor) -> Tensor:
    """Deep InfoMax, as its authors' code has it: both expectations over the full matrix, masked."""
    scores = x @ y.T
    own = torch.eye(len(x), device=x.device)
    positive = math.log(2) - F.softplus(-scores)
    negative = F.softplus(-scores) + scores - math.log(2)
    others = 1 - own
    return (negative * others).sum() / others.sum() - (positive * own).sum() / own.sum()


def naive_local_jsd(x: Tensor, y: Tensor) -> Tensor:
    """Deep InfoMax, as its authors' code has it: every vector with every position of all maps."""
    scores = (y @ x.flatten(0, 1).T).view(len(y), len(x), x.shape[1])
    own = torch.eye(len(x), device=x.device)
    positive = (math.log(2) - F.softplus(-scores)).mean(2)
    negative = (F.softplus(-scores) + scores - math.log(2)).mean(2)
    others = 1 - own
    return (negative * others).sum() / others.sum() - (positive * own).sum() / own.sum()


def naive_late_interaction(x: Tensor, y: Tensor) -> Tensor:
    """FILIP: all products of all pairs' positions and words."""
    products = torch.einsum("ipd,jtd->ijpt", x, y) / 0.07
    own = torch.arange(len(x), device=x.device)
    of_images, of_texts = products.max(3)[0].mean(2), products.max(2)[0].mean(2)
    return (F.cross_entropy(of_images, own) + F.cross_entropy(of_texts.T, own)) / 2


def naive_dv(x: Tensor, y: Tensor) -> Tensor:
    scores = x @ y.T
    eye = torch.eye(len(x), dtype=torch.bool, device=x.device)
    others = scores.masked_fill(eye, -torch.inf).flatten().logsumexp(0)
    return others - math.log(len(x) * (len(x) - 1)) - scores.diag().mean()


def naive_multi_similarity(x: Tensor, y: Tensor) -> Tensor:
    """Mine and weigh each anchor's pairs on the full matrix, at α = 2, β = 50, λ = 1."""
    scores = x @ y.T
    own = scores.diag()
    eye = torch.eye(len(x), dtype=torch.bool, device=x.device)
    costs = []
    for one in (scores, scores.T):
        negatives = one.masked_fill(eye, -torch.inf)
        mined = own < negatives.max(1)[0] + EPSILON
        positive = torch.where(mined, F.softplus(-2 * (own - 1)), 0) / 2
        negatives = negatives.masked_fill(negatives <= own[:, None] - EPSILON, -torch.inf)
        costs.append(positive + F.softplus((50 * (negatives - 1)).logsumexp(1)) / 50)
    return torch.stack(costs).mean()


def naive_smooth_ap(x: Tensor, y: Tensor) -> Tensor:
    scores = x @ y.T
    own = scores.diag()
    eye = torch.eye(len(x), dtype=torch.bool, device=x.device)
    costs = []
    for one in (scores, scores.T):
        above = ((one - own[:, None]) / TEMPERATURE).sigmoid().masked_fill(eye, 0).sum(1)
        costs.append(above / (1 + above))
    return torch.stack(costs).mean()
