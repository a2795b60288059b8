from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.processes import on_ranks
from xmodal.distributed.collectives import rank, world_size
from xmodal.objectives.pairwise import pair_scores
from xmodal.objectives.triplet import Triplet

KINDS = ["sum", "hardest", "semi_hard"]


def triplet(progress: float = 1.0, **given: Any) -> Triplet:
    loss = Triplet(**given)
    loss.progress = progress
    return loss


def random_pairs(seed: int = 0, size: int = 8, dim: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, size, dim, generator=generator, dtype=torch.float64)
    return F.normalize(x, dim=1), F.normalize(x + noise, dim=1)


def own_and_others() -> tuple[Tensor, Tensor]:
    """Four pairs of positive score 0.5, whose negatives score 0.9, 0.4, 0.2 and less by rows."""
    scores = torch.full((4, 4), -1.0, dtype=torch.float64)
    scores.fill_diagonal_(0.5)
    scores[0, 1], scores[0, 2], scores[0, 3] = 0.9, 0.4, 0.2
    return scores, torch.eye(4, dtype=torch.float64)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # Rows: row 0 has hinges 0.6 and 0.1, others none; columns: columns 1 and 2 have them.
        ("sum", (0.6 + 0.1) * 2 / 4),
        ("hardest", (0.6 + 0.6 + 0.1) / 4),
        ("semi_hard", (0.1 + 0.0 + 0.1) / 4),
    ],
)
def test_a_value_by_hand(kind: str, expected: float) -> None:
    x, y = own_and_others()
    value = triplet(negatives=kind, warmup=0)(x, y, torch.arange(4))
    assert value.item() == pytest.approx(expected)


def test_semi_hard_falls_back_to_the_hardest() -> None:
    """Where every negative scores above the pair: 0.7 by rows, by columns 0.7 and 0.6."""
    x = torch.tensor([[0.5, 0.7], [0.6, 0.5]], dtype=torch.float64)
    value = triplet(negatives="semi_hard", warmup=0)(x, torch.eye(2).double(), torch.arange(2))
    assert value.item() == pytest.approx((0.4 + 0.3 + 0.3 + 0.4) / 2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_slope_agrees_with_finite_differences(kind: str) -> None:
    loss, ids = triplet(negatives=kind, tile=3, margin=0.5), torch.tensor([0, 1, 2, 3, 1, 5, 6, 7])
    x, y = (side.requires_grad_() for side in random_pairs())
    assert torch.autograd.gradcheck(lambda x, y: loss(x, y, ids), (x, y))


@pytest.mark.parametrize("kind", ["hardest", "semi_hard"])
def test_the_warm_up_goes_from_the_sum_to_the_kind(kind: str) -> None:
    x, y = random_pairs()

    def value(progress: float, **given: Any) -> float:
        return triplet(progress, **given)(x, y, torch.arange(8)).item()

    every, mined = value(0, negatives="sum"), value(0, negatives=kind, warmup=0)
    assert every > mined > 0
    assert value(0.0, negatives=kind, warmup=0.4) == every
    assert value(0.1, negatives=kind, warmup=0.4) == pytest.approx(0.75 * every + 0.25 * mined)
    for progress in (0.4, 0.7, 1.0):
        assert value(progress, negatives=kind, warmup=0.4) == mined
    assert value(1.0, negatives="sum", warmup=0.4) == every


@pytest.mark.parametrize("kind", KINDS)
def test_a_collapsed_batch_shows_itself(kind: str) -> None:
    loss = triplet(negatives=kind)
    x = F.normalize(torch.ones(16, 64) + 1e-3 * torch.randn(16, 64), dim=1)
    value = loss(x, x.roll(1, 0), torch.arange(16))
    hinges = 15 if kind == "sum" else 1
    assert value.item() == pytest.approx(2 * 0.2 * hinges, rel=1e-2)
    assert loss.monitors["collapse"] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_healthy_batch_does_not(kind: str) -> None:
    """Nor one that is untrained: positive scores are like the others, which are not all alike."""
    torch.manual_seed(0)
    x, noise, other = (F.normalize(torch.randn(256, 256), dim=1) for _ in range(3))
    loss, ids = triplet(negatives=kind), torch.arange(256)
    loss(x, F.normalize(x + noise, dim=1), ids)
    assert loss.monitors["collapse"] == 0
    loss(x, other, ids)
    assert loss.monitors["collapse"] < 0.2


def test_where_one_side_has_collapsed_half_the_triplets_are_alike() -> None:
    loss, ids = triplet(), torch.arange(32)
    x = torch.linspace(-20, 20, 32)[:, None]
    for sides in ((x, torch.ones(32, 1)), (torch.ones(32, 1), x)):
        loss(*sides, ids)
        assert loss.monitors["collapse"] == 0.5


def test_captions_of_one_image_are_no_sign_of_collapse() -> None:
    loss = triplet()
    x = torch.eye(8).repeat_interleave(2, 0)
    loss(x, x, torch.arange(8).repeat_interleave(2))
    assert loss.monitors["collapse"] == 0
    loss(x, x, torch.arange(16))
    assert loss.monitors["collapse"] == 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_pair_costs_nothing(kind: str) -> None:
    x = torch.ones(1, 3, requires_grad=True)
    loss = triplet(negatives=kind)
    value = loss(x, x.detach(), torch.zeros(1, dtype=torch.int64))
    value.backward()
    assert value == 0
    assert not x.grad.any()
    assert loss.monitors["collapse"] == 0


def ties(kind: str, tile: int) -> dict[str, Tensor]:
    """This rank's gradients and collapse where every score is 1, of x of length √2."""
    rows = slice(rank() * 12 // world_size(), (rank() + 1) * 12 // world_size())
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64).repeat(12, 1)
    y = torch.ones(12, 2, dtype=torch.float64)
    y[:, 1] = torch.arange(12)  # which column, to be seen in the gradients of rows
    ids = torch.arange(12) // 2
    leaf, other = x[rows].clone().requires_grad_(), y[rows].clone().requires_grad_()
    loss = triplet(negatives=kind, tile=tile, warmup=0)
    loss(leaf, other, ids[rows]).backward()
    return {"x": leaf.grad, "y": other.grad, "collapse": loss.monitors["collapse"]}


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("kind", ["hardest", "semi_hard"])
@pytest.mark.parametrize("tile", [1, 5, 64])
def test_of_equal_negatives_the_first_in_the_batch_counts(kind: str, tile: int, ranks: int) -> None:
    shares = on_ranks(ranks, ties, kind, tile)
    x = torch.cat([share["x"] for share in shares]) / ranks
    # Row i has column 0 for its negative, and 2 where that is its own id; column j has row 0 or 2.
    first = torch.where(torch.arange(12) < 2, 2, 0).double()
    expected = first - torch.arange(12)
    columns_of = {0: torch.arange(2, 12), 2: torch.arange(2)}
    expected -= torch.arange(12)
    for row, columns in columns_of.items():
        expected[row] += columns.sum()
    torch.testing.assert_close(x[:, 1] * 12, expected)
    assert all(share["collapse"] == 1 for share in shares)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 13), st.integers(1, 5), st.integers(1, 16), st.sampled_from(KINDS))
def test_any_shape_and_tile_is_as_the_whole_matrix(
    size: int, dim: int, tile: int, kind: str
) -> None:
    x, y = random_pairs(size * 31 + dim, size, dim)
    ids = torch.randint(max(1, size - 2), (size,), generator=torch.Generator().manual_seed(tile))
    whole = triplet(negatives=kind)(x, y, ids)
    torch.testing.assert_close(triplet(negatives=kind, tile=tile)(x, y, ids), whole)


def test_of_several_embeddings_the_best_two_count() -> None:
    """An image's second embedding finds both texts' first; the other's first their second."""
    x = torch.tensor([[[0.0, 0.0], [1.0, 0.5]], [[-1.0, -1.0], [0.5, 1.0]]])
    y = torch.tensor([[[1.0, 0.0], [-1.0, -1.0]], [[0.0, 1.0], [0.0, -1.0]]])
    assert pair_scores(x, y).tolist() == [1, 1]
    assert pair_scores(x, y.flip(0)).tolist() == [0.5, 2]
    value = triplet(negatives="hardest", margin=0.75, warmup=0)(x, y, torch.arange(2))
    assert value == (0.25 + 1.75 + 1.75 + 0.25) / 2


@pytest.mark.parametrize("kind", KINDS)
def test_one_embedding_an_item_is_a_vector(kind: str) -> None:
    x, y = random_pairs()
    results = []
    for sides in ((x, y), (x[:, None], y[:, None])):
        leaves = [side.clone().requires_grad_() for side in sides]
        loss = triplet(0.05, negatives=kind, tile=3)
        loss(*leaves, torch.arange(8) % 7).backward()
        results.append([*(leaf.grad.view(8, 4) for leaf in leaves), loss.monitors["collapse"]])
    for one, none in zip(*results, strict=True):
        assert torch.equal(one, none)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_a_number_in_one_embedding_shows_in_the_value(kind: str) -> None:
    x, y = random_pairs()
    for side in (0, 1):
        sides = [torch.stack([values, values], 1) for values in (x, y)]
        sides[side][3, 1, 2] = torch.nan
        assert triplet(negatives=kind)(*sides, torch.arange(8)).isnan()


def test_embeddings_of_an_item_may_be_alike_and_the_batch_not_collapsed() -> None:
    loss, eye = triplet(), torch.eye(8)
    loss(eye[:, None].repeat(1, 2, 1), eye[:, None].repeat(1, 3, 1), torch.arange(8))
    assert loss.monitors["collapse"] == 0
    loss(torch.ones(8, 2, 3), torch.ones(8, 2, 3), torch.arange(8))
    assert loss.monitors["collapse"] == 1
