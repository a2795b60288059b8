"""The table of equivalence: every objective, on 1, 2 and 4 processes, is the formula it stands for.

Value and all gradients are those of the full matrix in float64, to 1e-10 of the largest entry.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.objectives import (
    adversarial_cases,
    batch_classification_cases,
    circle_cases,
    distillation_cases,
    embedding_cases,
    extra_cases,
    false_negatives_cases,
    global_contrastive_cases,
    info_nce_cases,
    label_sampling_cases,
    late_interaction_cases,
    margin_cases,
    matryoshka_cases,
    metric_pairs_cases,
    multi_similarity_cases,
    mutual_information_cases,
    proxy_cases,
    sigmoid_cases,
    smooth_ap_cases,
    soft_relevance_cases,
    supervised_contrastive_cases,
    triplet_cases,
)
from tests.objectives.equivalence import (
    CUTS,
    DIM,
    Case,
    Result,
    assert_equal,
    assert_equal_in_single,
    differentiate,
    in_single,
    on_cpu,
    share_of_batches,
    together,
)
from tests.processes import on_ranks

CASES = [
    *info_nce_cases.CASES,
    *sigmoid_cases.CASES,
    *margin_cases.CASES,
    *triplet_cases.CASES,
    *label_sampling_cases.CASES,
    *metric_pairs_cases.CASES,
    *batch_classification_cases.CASES,
    *mutual_information_cases.CASES,
    *circle_cases.CASES,
    *multi_similarity_cases.CASES,
    *smooth_ap_cases.CASES,
    *supervised_contrastive_cases.CASES,
    *proxy_cases.CASES,
    *soft_relevance_cases.CASES,
    *adversarial_cases.CASES,
    *matryoshka_cases.CASES,
    *late_interaction_cases.CASES,
    *embedding_cases.CASES,
    *extra_cases.CASES,
    *false_negatives_cases.CASES,
    *global_contrastive_cases.CASES,
    *distillation_cases.CASES,
]


# The softmax family, which on a GPU is Triton's.
SOFTMAX = [
    case for case in CASES if case.name.startswith(("info_nce", "affinity", "batch classification"))
]
# Those over plain pairs, which may be many.
OF_PAIRS = [
    case
    for case in CASES
    if set(case.batches.get("random", ())) == {"x", "y", "ids"}
    and case.batches["random"]["x"].ndim == 2
    and {"monitors", "estimator"} & vars(case.module()).keys()
]
LARGE = 1300
LARGE_CUTS = {1: [1300], 2: [500, 800], 4: [100, 700, 0, 500]}


def shares_of(case: Case, cut: list[int]) -> list[dict[str, Result]]:
    """Return what each rank makes of its rows of every batch, cut among the ranks."""
    if len(cut) == 1:
        return [share_of_batches(case, cut)]
    return on_ranks(len(cut), share_of_batches, case, cut)


@pytest.mark.parametrize("ranks", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}-tiled")
def test_equals_the_formula(case: Case, ranks: int) -> None:
    for cut in CUTS[ranks]:
        shares = shares_of(case, cut)
        for name, inputs in case.batches.items():
            got = together([share[name] for share in shares], case.rows(cut), inputs)
            expected = differentiate(case.naive, case.module(), inputs)
            assert_equal(got, expected, where=f"{case.name}, {name}, {cut}")


@pytest.mark.parametrize(
    "device", [pytest.param("cuda", marks=pytest.mark.gpu), "cpu"], ids=["triton", "cpu"]
)
@pytest.mark.parametrize("case", SOFTMAX, ids=lambda case: case.name)
def test_in_single_precision_it_is_as_exact_as_the_formula(case: Case, device: str) -> None:
    for name, inputs in case.batches.items():
        module = case.module().float().to(device)
        got = differentiate(case.share, module, in_single(inputs, device))
        assert_equal_in_single(case, name, on_cpu(got))


@pytest.mark.parametrize("side", ["x", "y"])
@pytest.mark.parametrize("case", OF_PAIRS, ids=lambda case: case.name)
def test_what_is_not_a_number_shows_in_the_value(case: Case, side: str) -> None:
    inputs = {name: values.clone() for name, values in case.batches["random"].items()}
    inputs[side][7] = torch.nan
    assert case.share(case.module(), inputs).isnan()


def with_default_tiles(module: nn.Module) -> nn.Module:
    for part in module.modules():
        if hasattr(part, "tile"):
            part.tile = None
    return module


def large(case: Case) -> Case:
    """The same on several tiles of the default size, the last ones cut short."""
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, LARGE, DIM, generator=generator, dtype=torch.float64)
    ids = torch.randint(LARGE, (LARGE,), generator=generator)
    inputs = {"x": F.normalize(x, dim=1), "y": F.normalize(x + noise, dim=1), "ids": ids}
    return replace(
        case,
        module=partial(_call, with_default_tiles, case.module),
        batches={"large": inputs},
    )


def _call(change: Callable[[nn.Module], nn.Module], make: Callable[[], nn.Module]) -> nn.Module:
    return change(make())


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("case", [large(case) for case in OF_PAIRS], ids=lambda case: case.name)
def test_large_batches_equal_the_formula(case: Case, ranks: int) -> None:
    cut = LARGE_CUTS[ranks]
    shares = (
        [share_of_batches(case, cut)]
        if ranks == 1
        else on_ranks(ranks, share_of_batches, case, cut)
    )
    got = together([share["large"] for share in shares], case.rows(cut), case.batches["large"])
    expected = differentiate(case.naive, case.module(), case.batches["large"])
    assert_equal(got, expected, where=f"{case.name}, {cut}")
