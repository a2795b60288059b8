"""Extra negatives that would be ignored are refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from xmodal.objectives.circle import Circle
from xmodal.objectives.extra import Extra
from xmodal.objectives.info_nce import InfoNCE
from xmodal.objectives.margin import Margin
from xmodal.objectives.mutual_information import MutualInformation
from xmodal.objectives.smooth_ap import SmoothAp
from xmodal.objectives.soft_relevance import SoftRelevance

IDS = torch.arange(2)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"side": "z"}, "side must be one of x, y, not 'z'"),
        ({"seen": "some"}, "seen must be one of all, own, not 'some'"),
        ({"ids": torch.arange(3)}, r"the ids of 2 extra columns must be int64 \(n,\)"),
    ],
)
def test_what_would_be_ignored_is_refused(given: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        Extra(torch.zeros(2, 3), **({"ids": IDS} | given))


@pytest.mark.parametrize(
    ("objective", "shape", "side", "line"),
    [
        (InfoNCE(direction="rows"), (2, 3), "x", "info_nce of rows has no term .* beside x"),
        (InfoNCE(direction="columns"), (2, 3), "y", "info_nce of columns has no .* beside y"),
        (MutualInformation(estimator="info_nce"), (2, 3), "x", "has no term .* beside x"),
        (MutualInformation(), (2, 4, 3), "y", "jsd of 3 dimensions has no term .* beside y"),
    ],
)
def test_a_side_without_a_term_is_refused(
    objective: Callable[..., Tensor], shape: tuple[int, ...], side: Any, line: str
) -> None:
    with pytest.raises(ValueError, match=line):
        objective(torch.zeros(shape), torch.zeros(2, 3), IDS, [Extra(torch.zeros(2, 3), IDS, side)])


@pytest.mark.parametrize("objective", [Circle(), InfoNCE(), Margin(), SmoothAp(), SoftRelevance()])
def test_several_embeddings_an_item_are_refused(objective: Callable[..., Tensor]) -> None:
    items = torch.zeros(2, 4, 3)
    with pytest.raises(
        ValueError, match=r"an embedding of each item, \(pairs, dim\): .*\(2, 4, 3\)"
    ):
        objective(items, items, IDS)
