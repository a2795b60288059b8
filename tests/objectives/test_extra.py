"""Extra negatives that would be ignored, or do not fit, are refused; none add nothing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from xmodal.objectives.circle import Circle
from xmodal.objectives.extra import Extra
from xmodal.objectives.info_nce import InfoNCE
from xmodal.objectives.margin import Margin
from xmodal.objectives.matryoshka import Matryoshka
from xmodal.objectives.multi_similarity import MultiSimilarity
from xmodal.objectives.mutual_information import MutualInformation
from xmodal.objectives.pairs import LimitedIds
from xmodal.objectives.sigmoid import Sigmoid
from xmodal.objectives.smooth_ap import SmoothAp
from xmodal.objectives.soft_relevance import SoftRelevance
from xmodal.objectives.supervised_contrastive import SupervisedContrastive
from xmodal.objectives.triplet import Triplet

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
        (InfoNCE(direction="rows"), (2, 3), "x", "info_nce of rows takes no .* beside x"),
        (InfoNCE(direction="columns"), (2, 3), "y", "info_nce of columns takes no .* beside y"),
        (
            MutualInformation(estimator="info_nce"),
            (2, 3),
            "x",
            r"mutual_information \(info_nce\) takes no .* beside x",
        ),
        (
            MutualInformation(),
            (2, 4, 3),
            "y",
            r"mutual_information \(jsd\) of maps takes no .* beside y",
        ),
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


@pytest.mark.parametrize("seen", ["all", "own"])
@pytest.mark.parametrize(
    "objective",
    [
        *(Circle(), InfoNCE(), Margin(), MultiSimilarity(), SmoothAp(), SoftRelevance(), Sigmoid()),
        *(SupervisedContrastive(), Triplet(negatives="hardest", warmup=0.0)),
        *(MutualInformation(estimator=one) for one in ("jsd", "dv", "nwj", "info_nce")),
    ],
)
def test_no_columns_at_all_add_nothing(objective: Callable[..., Tensor], seen: Any) -> None:
    x, y = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    none = Extra(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), seen=seen)
    assert objective(x, y, extra=[none]).item() == pytest.approx(objective(x, y).item(), rel=1e-6)


@pytest.mark.parametrize(
    ("objective", "shape"), [(InfoNCE(), (2, 2, 3)), (InfoNCE(), (2, 4)), (Sigmoid(), (2, 4))]
)
def test_columns_of_another_shape_are_refused(
    objective: Callable[..., Tensor], shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"extra columns are \(n, 3\), as x is"):
        objective(torch.zeros(2, 3), torch.zeros(2, 3), IDS, [Extra(torch.zeros(shape), IDS)])


def test_widths_that_do_not_fit_are_refused_with_extra_columns_too() -> None:
    items = torch.randn(2, 9)
    with pytest.raises(ValueError, match="the last of the widths must be that of the embeddings"):
        Matryoshka(widths=[2, 7])(items, items, IDS, [Extra(items, IDS + 9)])


@pytest.mark.parametrize("objective", [Margin(), SupervisedContrastive(), MutualInformation()])
def test_a_limit_of_likeness_is_refused_by_those_that_go_by_ids(
    objective: Callable[..., Tensor],
) -> None:
    items = torch.randn(2, 3)
    with pytest.raises(ValueError, match="goes by ids alone"):
        objective(items, items, LimitedIds(IDS, 0.9))
