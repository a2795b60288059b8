"""Objectives with extra negatives, by the full matrix beside which the extra columns stand."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.objectives import (
    circle_cases,
    info_nce_cases,
    margin_cases,
    multi_similarity_cases,
    mutual_information_cases,
    sigmoid_cases,
    smooth_ap_cases,
    soft_relevance_cases,
    supervised_contrastive_cases,
    triplet_cases,
)
from tests.objectives.equivalence import BATCH, DIM, Case, Inputs, pair_batches
from xmodal.objectives.extra import Extra
from xmodal.objectives.pairwise.tiles import NO_ROWS

OF_EACH = 2  # texts, and images, of each pair
SIDES = {"texts": "y", "images": "x"}
GENERATOR = torch.Generator().manual_seed(11)
# A queue is not of a rank: it has one row more than the batch, some of which are not filled yet.
QUEUE = F.normalize(torch.randn(BATCH + 1, DIM, generator=GENERATOR, dtype=torch.float64))
QUEUE_IDS = pair_batches()["random"]["ids"].roll(3).repeat(2)[: len(QUEUE)].clone()
QUEUE_IDS[-6:] = NO_ROWS


@dataclass(frozen=True)
class Columns:
    """Extra columns on a side, and which rows see them."""

    side: str  # "y": beside y, negatives of x
    values: Tensor  # (n, dim)
    ids: Tensor  # (n,)
    own: bool  # of n = pairs × k, the k of a pair are seen by it alone

    def negative(self, ids: Tensor) -> Tensor:
        """Where they are negatives, (pairs, n)."""
        counted = (ids[:, None] != self.ids) & (self.ids != NO_ROWS)
        if self.own:
            rows = torch.arange(len(ids))
            counted &= rows[:, None] == rows.repeat_interleave(len(self.ids) // len(ids))
        return counted


def batches() -> dict[str, Inputs]:
    """Batches of pairs, each with extra items of both sides: of the ids of pairs and of none."""
    made = {}
    standard = triplet_cases.batches()
    for name in ("random", "an image twice", "ties", "scores of 100"):
        inputs = dict(standard[name])
        for extra, side in SIDES.items():
            shape = (BATCH, OF_EACH, DIM)
            drawn = torch.randn(shape, generator=GENERATOR, dtype=torch.float64)
            near = F.normalize(drawn + inputs[side][:, None], dim=2)
            inputs[extra] = 2 * drawn.round() if name == "ties" else near
            ids = inputs["ids"].roll(2)[:, None].repeat(1, OF_EACH)
            ids[::3] = NO_ROWS
            ids[1::3, 1] = NO_ROWS
            ids[2::3] = 77 + torch.arange(BATCH // 3)[:, None]
            inputs[f"{extra}_ids"] = ids
        made[name] = inputs
    return made


def share(module: nn.Module, inputs: Inputs, *, seen: str, queue: bool) -> Tensor:
    extra = extra_of(inputs, seen=seen, queue=queue)
    return module(inputs["x"], inputs["y"], inputs["ids"], extra=extra)


def extra_of(inputs: Inputs, *, seen: str, queue: bool) -> list[Extra]:
    extra = [
        Extra(inputs[name].flatten(0, 1), inputs[f"{name}_ids"].flatten(), side, seen)
        for name, side in SIDES.items()
    ]
    if queue:
        dtype = inputs["x"].dtype
        extra += [Extra(QUEUE.to(dtype), QUEUE_IDS, side, replicated=True) for side in "xy"]
    return extra


def columns_of(inputs: Inputs, *, seen: str, queue: bool) -> list[Columns]:
    made = [
        Columns(
            side, inputs[name].flatten(0, 1), inputs[f"{name}_ids"].flatten(), own=seen == "own"
        )
        for name, side in SIDES.items()
    ]
    columns = inputs.get("queue", QUEUE).to(inputs["x"].dtype)
    return made + [Columns(side, columns, QUEUE_IDS, own=False) for side in "xy" if queue]


def widened(inputs: Inputs, side: str, **kinds: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (pairs, columns) on a side, extra ones behind, which are negatives, and the ids'."""
    x, y, ids = inputs["x"], inputs["y"], inputs["ids"]
    items, batch = (x, y) if side == "y" else (y, x)
    extra = [one for one in columns_of(inputs, **kinds) if one.side == side]
    scores = torch.cat([items @ batch.T, *(items @ one.values.T for one in extra)], 1)
    other = torch.cat([ids[:, None] != ids, *(one.negative(ids) for one in extra)], 1)
    return scores, other, torch.eye(*scores.shape, dtype=torch.bool)


def naive_info_nce(module: nn.Module, inputs: Inputs, **kinds: Any) -> Tensor:
    costs = []
    many = module.positives == "same_id"
    for side in "yx":
        scores, negative, own = widened(inputs, side, **kinds)
        batch = torch.arange(scores.shape[1]) < len(scores)
        positive = ~negative & batch if many else own
        kept = (module.log_scale.exp() * scores).masked_fill(~(negative | positive), -torch.inf)
        logs = (kept - kept.logsumexp(1, keepdim=True)).masked_fill(~positive, 0)
        costs.append(-logs.sum(1) / positive.sum(1))
    return torch.stack(costs).mean()


def naive_sigmoid(module: nn.Module, inputs: Inputs, **kinds: Any) -> Tensor:
    total = 0
    for side in "yx":
        scores, negative, own = widened(inputs, side, **kinds)
        logits = module.log_scale.exp() * scores + module.bias
        costs = -F.logsigmoid(torch.where(own, logits, -logits))
        counted = own | negative
        if side == "x":  # the pairs of the batch are judged once
            counted[:, : len(scores)] = False
        total = total + costs[counted].sum()
    return total / BATCH


def naive_triplet(module: nn.Module, inputs: Inputs, **kinds: Any) -> Tensor:
    every, mined = 0, 0
    for side in "yx":
        scores, negative, _ = widened(inputs, side, **kinds)
        hinges = (module.margin + scores - scores.diag()[:, None]).relu()
        every = every + hinges[negative].sum()
        for i, row in enumerate(scores):
            j = triplet_cases.hardest(row, row[i], negative[i], module.negatives)
            mined = mined + hinges[i, j]
    done = 0 if module.negatives == "sum" else min(1, module.progress / module.warmup)
    return ((1 - done) * every + done * mined) / BATCH


def naive_margin(module: nn.Module, inputs: Inputs, **kinds: Any) -> Tensor:
    total = margin_cases.naive(module, {name: inputs[name] for name in ("x", "y", "ids")})
    for side in "yx":
        items = inputs["x" if side == "y" else "y"]
        for one in columns_of(inputs, **kinds):
            if one.side == side:
                hinges = (module.margin - (items[:, None] - one.values).norm(dim=-1)).relu()
                negative = one.negative(inputs["ids"])
                total = total + (hinges**2)[negative].sum() / (2 * BATCH)
    return total


def naive_mutual_information(module: nn.Module, inputs: Inputs, **kinds: Any) -> Tensor:
    negatives = []
    for side in "yx":
        scores, negative, _ = widened(inputs, side, **kinds)
        if side == "x":  # the pairs of the batch are negatives once
            negative[:, : len(scores)] = False
        negatives.append(scores[negative])
    positives = (inputs["x"] * inputs["y"]).sum(1)
    return mutual_information_cases.estimate(module, positives, torch.cat(negatives))


def naive_information_by_rows(module: nn.Module, inputs: Inputs, **kinds: Any) -> Tensor:
    scores, negative, own = widened(inputs, "y", **kinds)
    logs = [
        (row[mine].exp() / row[mine | others].exp().mean()).log()
        for row, mine, others in zip(scores, own, negative, strict=True)
    ]
    return -torch.cat(logs).mean() + 0 * sum(inputs[name].sum() for name in ("images", "x", "y"))


def share_by_rows(module: nn.Module, inputs: Inputs, *, seen: str, queue: bool) -> Tensor:
    extra = [one for one in extra_of(inputs, seen=seen, queue=queue) if one.side == "y"]
    nothing = 0 * inputs["images"].sum()
    return module(inputs["x"], inputs["y"], inputs["ids"], extra=extra) + nothing


def naive_soft_relevance(module: nn.Module, inputs: Inputs, **kinds: Any) -> Tensor:
    ids, u = inputs["ids"], inputs.get("descriptions", inputs["y"]).detach()
    same = (ids[:, None] == ids).double()
    targets = (1 - module.weight) * same / same.sum(1, keepdim=True)
    targets = targets + module.weight * (u @ u.T / module.temperature).softmax(1)
    total = 0
    for side in "yx":
        scores, negative, _ = widened(inputs, side, **kinds)
        counted = negative | (torch.arange(scores.shape[1]) < len(scores))
        logs = (module.log_scale.exp() * scores).masked_fill(~counted, -torch.inf).log_softmax(1)
        total = total - (targets * logs[:, : len(scores)]).sum()
    return total / (2 * BATCH)


def naive_supervised_contrastive(module: nn.Module, inputs: Inputs, **kinds: Any) -> Tensor:
    """Each anchor against all others of both media and the extra columns of its own side."""
    items, ids = torch.cat([inputs["x"], inputs["y"]]), inputs["ids"].repeat(2)
    costs = []
    for place, side in enumerate("yx"):
        for i in range(BATCH):
            anchor = place * BATCH + i
            others = torch.arange(len(items)) != anchor
            more = [
                one.values[one.negative(inputs["ids"])[i]]
                for one in columns_of(inputs, **kinds)
                if one.side == side
            ]
            logits = torch.cat([items[others], *more]) @ items[anchor] / module.temperature
            of_others = logits.log_softmax(0)[: others.sum()]
            costs.append(-of_others[ids[others] == ids[anchor]].mean())
    return torch.stack(costs).mean()


def naive_circle(module: nn.Module, inputs: Inputs, **kinds: Any) -> Tensor:
    return of_queries(circle_cases.of_query, module, inputs, **kinds)


def naive_multi_similarity(module: nn.Module, inputs: Inputs, **kinds: Any) -> Tensor:
    return of_queries(multi_similarity_cases.of_anchor, module, inputs, **kinds)


def naive_smooth_ap(module: nn.Module, inputs: Inputs, **kinds: Any) -> Tensor:
    return 1 - of_queries(smooth_ap_cases.precision, module, inputs, **kinds)


def of_queries(
    one: Callable[[nn.Module, Tensor, Tensor], Tensor],
    module: nn.Module,
    inputs: Inputs,
    **kinds: Any,
) -> Tensor:
    """The mean over the queries of both sides, of the scores that count and which are positives."""
    values = []
    for side in "yx":
        scores, negative, _ = widened(inputs, side, **kinds)
        positive = ~negative & (torch.arange(scores.shape[1]) < len(scores))
        for row, yes, no in zip(scores, positive, negative, strict=True):
            values.append(one(module, row[yes | no], yes[yes | no]))
    return torch.stack(values).mean()


def cases(
    name: str,
    module: Callable[[], nn.Module],
    naive: Callable[..., Tensor],
    *kinds: str,
    share: Callable[..., Tensor] = share,
) -> list[Case]:
    """The objective with negatives of each kind: all see all or their own, or a queue beside."""
    given = {
        "all": {"seen": "all", "queue": False},
        "own": {"seen": "own", "queue": False},
        "queue": {"seen": "all", "queue": True},
    }
    return [
        Case(
            f"{name}, extra: {kind}",
            module,
            partial(share, **given[kind]),
            partial(naive, **given[kind]),
            batches(),
        )
        for kind in kinds
    ]


CASES = [
    *cases(
        "info_nce", partial(info_nce_cases.info_nce, 3.0), naive_info_nce, "all", "own", "queue"
    ),
    *cases(
        "info_nce, many positives",
        partial(info_nce_cases.info_nce, 3.0, positives="same_id"),
        naive_info_nce,
        "all",
    ),
    *cases("sigmoid", partial(sigmoid_cases.sigmoid, 2.0, 2.5), naive_sigmoid, "own", "queue"),
    *cases(
        "triplet, semi-hard",
        partial(triplet_cases.triplet, negatives="semi_hard", warmup=0.5, progress=0.2),
        naive_triplet,
        "own",
        "queue",
    ),
    *cases(
        "triplet, hardest",
        partial(triplet_cases.triplet, negatives="hardest", warmup=0.5),
        naive_triplet,
        "all",
    ),
    *cases("margin", partial(margin_cases.margin, 1.7), naive_margin, "all", "own", "queue"),
    *(
        case
        for estimator, kinds in {
            "jsd": ("own", "queue"),
            "dv": ("all", "own"),
            "nwj": ("all",),
        }.items()
        for case in cases(
            f"mutual information, {estimator}",
            partial(mutual_information_cases.mutual_information, estimator, 0.1),
            naive_mutual_information,
            *kinds,
        )
    ),
    *cases(
        "mutual information, info_nce",
        partial(mutual_information_cases.mutual_information, "info_nce"),
        naive_information_by_rows,
        "own",
        "queue",
        share=share_by_rows,
    ),
    *cases(
        "soft relevance",
        partial(soft_relevance_cases.soft_relevance, weight=0.3),
        naive_soft_relevance,
        "own",
        "queue",
    ),
    *cases(
        "supervised contrastive",
        supervised_contrastive_cases.CASES[0].module,
        naive_supervised_contrastive,
        "own",
        "queue",
    ),
    *cases("circle", circle_cases.CASES[0].module, naive_circle, "own", "queue"),
    *cases(
        "multi-similarity",
        multi_similarity_cases.CASES[0].module,
        naive_multi_similarity,
        "own",
        "queue",
    ),
    *cases("smooth AP", smooth_ap_cases.CASES[0].module, naive_smooth_ap, "own", "queue"),
]
