"""The table of equivalence: every objective, on 1, 2 and 4 processes, is the formula it stands for.

Value and all gradients are those of the full matrix in float64, to 1e-10 of the largest entry.
"""

import pytest

from tests.objectives import (
    batch_classification_cases,
    contrastive_cases,
    embedding_cases,
    margin_cases,
    mutual_information_cases,
    opponent_cases,
    sampled_triplet_cases,
    sigmoid_cases,
    triplet_cases,
)
from tests.objectives.equivalence import (
    CUTS,
    Case,
    assert_equal,
    differentiate,
    share_of_batches,
    together,
)
from tests.processes import on_ranks

CASES = [
    *contrastive_cases.CASES,
    *sigmoid_cases.CASES,
    *margin_cases.CASES,
    *triplet_cases.CASES,
    *sampled_triplet_cases.CASES,
    *batch_classification_cases.CASES,
    *mutual_information_cases.CASES,
    *opponent_cases.CASES,
    *embedding_cases.CASES,
]


@pytest.mark.parametrize("ranks", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_equals_the_formula(case: Case, ranks: int) -> None:
    for cut in CUTS[ranks]:
        shares = (
            [share_of_batches(case, cut)]
            if ranks == 1
            else on_ranks(ranks, share_of_batches, case, cut)
        )
        for name, inputs in case.batches.items():
            got = together([share[name] for share in shares], inputs)
            expected = differentiate(case.naive, case.module(), inputs)
            assert_equal(got, expected, where=f"{case.name}, {name}, {cut}")
