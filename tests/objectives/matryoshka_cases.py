"""Objectives at several widths, one after the other by their full matrices."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from tests.objectives import (
    circle_cases,
    extra_cases,
    global_contrastive_cases,
    info_nce_cases,
    margin_cases,
    multi_similarity_cases,
    mutual_information_cases,
    proxy_cases,
    sigmoid_cases,
    smooth_ap_cases,
    soft_relevance_cases,
    supervised_contrastive_cases,
    triplet_cases,
)
from tests.objectives.equivalence import DIM, Case, Inputs, Objective, pair_batches
from xmodal.objectives.matryoshka import Matryoshka
from xmodal.objectives.matryoshka_of_each import MatryoshkaOfEach
from xmodal.objectives.norm_softmax import PairedNormSoftmax
from xmodal.objectives.numerics import unit
from xmodal.objectives.proxy_anchor import PairedProxyAnchor

MODULES = (
    circle_cases,
    info_nce_cases,
    margin_cases,
    multi_similarity_cases,
    sigmoid_cases,
    smooth_ap_cases,
    soft_relevance_cases,
    supervised_contrastive_cases,
    triplet_cases,
)
WIDTHS, WEIGHTS = (2, 4, DIM), (0.5, 2.0, 1.0)
# The last one is of semi-hard negatives and all together.
OF = (
    *("info_nce", "info_nce, many positives", "sigmoid", "triplet, hardest, warming up"),
    *("circle", "margin of 1.0", "multi-similarity", "smooth AP", "soft relevance"),
    "supervised contrastive",
)
# Where cosines are the same but for rounding, it decides which of them is the hardest, which are
# mined, and what distances of 0 have a slope.
TIES = ("all alike",)
# Of two numbers an extra column is so near a row that the slope of their distance loses its digits.
TOO_NEAR = "margin, extra: all"
OF_QUEUES = ("info_nce, extra: all", "triplet, hardest, extra: all")  # which have them all beside
MINED = ("multi-similarity", "margin of 1.0", "triplet, hardest, warming up")


@dataclass(frozen=True)
class AtWidths:
    """The formula of an objective at every width, summed by weights."""

    naive: Objective
    describes: bool = False

    def __call__(self, module: nn.Module, inputs: Inputs) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for number, (width, weight) in enumerate(zip(WIDTHS, WEIGHTS, strict=True)):
            sides = [side for side in ("x", "y", "texts", "images") if side in inputs]
            narrow = {side: unit(inputs[side][..., :width]) for side in sides}
            if "texts" in inputs:
                narrow["queue"] = unit(extra_cases.QUEUE[:, :width])
            # What soft relevance describes pairs by is whole at every width.
            whole = {"descriptions": inputs["y"]} if self.describes else {}
            objective = of_width(module.at(width), number)
            total = total + weight * self.naive(objective, {**inputs, **narrow, **whole})
        return total


class Narrow:
    """An objective, some of whose values are others at a width."""

    def __init__(self, module: nn.Module, **own: Any) -> None:
        self.module, self.own = module, own

    def __getattr__(self, name: str) -> Any:
        return self.own[name] if name in self.own else getattr(self.module, name)


def of_width(module: nn.Module, number: int) -> Any:
    """The objective of one of the widths: the first numbers of its proxies, its own averages."""
    if hasattr(module, "proxies"):
        weight = module.proxies.weight[:, : WIDTHS[number]]
        return Narrow(module, proxies=SimpleNamespace(weight=weight))
    if hasattr(module, "averages"):
        logs = module.averages.log_averages
        logs = logs[number :: len(WIDTHS)] if len(logs) > 2 else logs
        return Narrow(module, averages=SimpleNamespace(log_averages=logs))
    return module


def matryoshka(make: Callable[[], nn.Module]) -> Matryoshka:
    return Matryoshka(widths=WIDTHS, weights=WEIGHTS, objective=make)


def of_each(make: Callable[[int], nn.Module]) -> MatryoshkaOfEach:
    return MatryoshkaOfEach(WIDTHS, WEIGHTS, objective=make)


def of_any_width(make: Callable[[], nn.Module], width: int) -> nn.Module:
    del width
    return make()


def share(module: nn.Module, inputs: Inputs) -> Tensor:
    return module(inputs["x"], inputs["y"], inputs["ids"])


def share_of_samples(module: nn.Module, inputs: Inputs) -> Tensor:
    return module(inputs["x"], inputs["y"], inputs["ids"], samples=inputs["samples"])


def batches(case: Case) -> dict[str, Inputs]:
    """Some of those of pairs, with zeros in front, and without ties where the hardest is sought."""
    every = pair_batches()
    made = {name: every[name] for name in ("random", "an image twice", "five labels", "all alike")}
    zeros = {name: values.clone() for name, values in made["random"].items()}
    zeros["x"][3, :4] = 0
    zeros["y"][[3, 5], :2] = 0
    skipped = TIES if case.name in MINED else ()
    return {name: b for name, b in made.items() if name not in skipped} | {"zeros in front": zeros}


CASES = [
    Case(
        f"matryoshka of {case.name}",
        partial(matryoshka, case.module),
        share,
        AtWidths(case.naive, describes=case.name == "soft relevance"),
        batches(case),
    )
    for module in MODULES
    for case in module.CASES
    if case.name in OF
] + [
    Case(
        f"matryoshka of {case.name}",
        partial(matryoshka, case.module),
        case.share,
        AtWidths(case.naive, describes="soft relevance" in case.name),
        {"random": case.batches["random"]},
    )
    for case in extra_cases.CASES
    if "mutual information" not in case.name and case.name not in (TOO_NEAR, *OF_QUEUES)
]


def of_widths(case: Case, **given: Any) -> Case:
    """An objective that keeps something of each width."""
    return Case(
        f"matryoshka of {case.name}",
        partial(matryoshka, partial(case.module, **given)),
        share_of_samples if "samples" in case.batches["random"] else case.share,
        AtWidths(case.naive),
        {name: case.batches[name] for name in ("random", "an image twice") if name in case.batches},
    )


INFORMATION = [
    *mutual_information_cases.CASES[:4],
    *(case for case in extra_cases.CASES if "mutual information" in case.name),
]
CASES += [
    of_widths(global_contrastive_cases.CASES[1], num_widths=len(WIDTHS)),
    *(of_widths(case, widths=WIDTHS) for case in INFORMATION),
    *(
        Case(
            f"matryoshka of {name}",
            partial(matryoshka, partial(proxy_cases.paired, kind)),
            share,
            AtWidths(partial(proxy_cases.of_pairs, naive)),
            proxy_cases.pairs(),
            dealt=True,
        )
        for name, kind, naive in (
            ("norm softmax", PairedNormSoftmax, proxy_cases.naive_softmax),
            ("proxy anchor", PairedProxyAnchor, proxy_cases.naive_anchor),
        )
    ),
    Case(
        "matryoshka of each",
        partial(of_each, partial(of_any_width, global_contrastive_cases.CASES[0].module)),
        share_of_samples,
        AtWidths(global_contrastive_cases.naive),
        {"random": global_contrastive_cases.batches()["random"]},
    ),
]
