"""Pairs that are no negatives because their texts are alike."""

import pytest
import torch
import torch.nn.functional as F

from xmodal.assembly.recipe import read_recipe
from xmodal.errors import UserError
from xmodal.objectives import InfoNCE
from xmodal.objectives.false_negatives import FalseNegatives
from xmodal.objectives.pairs import LimitedIds

BATCH, DIM = 12, 6


def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    x, y = F.normalize(torch.randn(2, BATCH, DIM, dtype=torch.float64), dim=2)
    return x, y


def test_it_begins_at_its_start() -> None:
    skipping, ids = FalseNegatives(similarity=0.5, start=0.2), torch.arange(3)
    skipping.progress = 0.1
    assert skipping(ids) is ids
    skipping.progress = 0.2
    assert skipping(ids) == LimitedIds(ids, 0.5)


def test_equal_texts_are_skipped_as_equal_ids_are() -> None:
    x, y = pairs()
    y[7], y[9] = y[2], y[2]
    ids = torch.arange(BATCH)
    same = ids.clone()
    same[[7, 9]] = 2
    loss = InfoNCE(scale=3.0).double()
    assert torch.equal(loss(x, y, LimitedIds(ids, 0.9999)), loss(x, y, same))
    assert loss(x, y, ids) > loss(x, y, same)


def test_where_all_texts_are_alike_there_are_no_negatives() -> None:
    x, y = pairs()
    y = y[:1].repeat(BATCH, 1)
    assert InfoNCE().double()(x, y, LimitedIds(torch.arange(BATCH), 0.9)) == 0


def test_it_has_no_gradient_of_its_own_and_takes_memory_linear_in_the_batch() -> None:
    def kept(rows: int) -> int:
        found: list[int] = []
        x, y = torch.randn(2, rows, DIM, requires_grad=True)
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda one: found.append(one.numel()) or one, lambda one: one
        )
        with hooks:
            InfoNCE(tile=8)(x, y, LimitedIds(torch.arange(rows), 0.5))
        return sum(found)

    assert kept(256) < 2.1 * kept(128)


WIDTHS_OF_PROXIES = "{kind: matryoshka, widths: [128], objective: {kind: norm_softmax, classes: 9}}"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["method.objective.kind=margin"], "margin goes by ids alone"),
        (["method.objective.positives=same_id"], "info_nce goes by ids alone"),
        (
            ["method.objective={kind: matryoshka, widths: [128]}"],
            "matryoshka of info_nce goes by ids alone; remove it, or use as the objective itself",
        ),
        (["method.queue={size: 9, of: images}"], "a queue of images has none"),
    ],
)
def test_objectives_that_do_not_skip_pairs_refuse_it(given: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_recipe("quickstart", ["method.false_negatives={similarity: 0.9}", *given])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["method.objective.kind=global_contrastive"], "global_contrastive takes no further"),
        (
            [f"method.objective={WIDTHS_OF_PROXIES}"],
            "matryoshka of norm_softmax takes no further negatives; remove it, or use one of "
            "circle, info_nce, margin, multi",
        ),
        (
            ["method.objective.direction=rows"],
            "has extra negatives among texts alone; use of: texts",
        ),
    ],
)
def test_objectives_that_use_no_queue_refuse_it(given: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_recipe("quickstart", ["method.queue={size: 9}", *given])


def test_extra_texts_of_an_objective_without_them_are_refused() -> None:
    words = ["data.negatives.texts=1", f"method.objective={WIDTHS_OF_PROXIES}"]
    message = "clip with matryoshka of norm_softmax takes no extra texts; remove them"
    with pytest.raises(UserError, match=message):
        read_recipe("quickstart", words)
