"""The pairwise engine against full matrices: any shape, any size of tiles."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from torch import Tensor

from xmodal.objectives.config import ObjectiveConfig
from xmodal.objectives.info_nce import InfoNCE
from xmodal.objectives.pairs import Pairs
from xmodal.objectives.pairwise import Cell, hardest, log_sum_exp, num_negatives, pair_sum
from xmodal.objectives.pairwise.tiles import Tiles, tile_size

shapes = st.tuples(*[st.integers(1, 12)] * 2, st.integers(1, 5))  # rows, columns, dim
tile_sizes = st.integers(1, 15)
some_ids = st.integers(1, 30)  # how many different ones
quick = settings(max_examples=60, deadline=None)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def inputs(shape: tuple[int, int, int], num_ids: int) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    rows, columns, dim = shape
    x, y = random(rows, dim), random(columns, dim)
    ids = [torch.randint(num_ids, (size,)) * 2**40 for size in (rows, columns)]
    return x.requires_grad_(), y.requires_grad_(), tuple(ids)


def scores(x: Tensor, y: Tensor, ids: tuple[Tensor, ...]) -> Tensor:
    return (x @ y.T).masked_fill(ids[0][:, None] == ids[1], -torch.inf)


def assert_same_gradients(ours: Tensor, naive: Tensor, *leaves: Tensor) -> None:
    torch.testing.assert_close(ours, naive, rtol=1e-12, atol=1e-12)
    for got, expected in zip(
        torch.autograd.grad(ours, leaves), torch.autograd.grad(naive, leaves), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


@quick
@given(shapes, tile_sizes, some_ids)
def test_log_sum_exp_of_rows_and_columns(
    shape: tuple[int, int, int], tile: int, num_ids: int
) -> None:
    x, y, ids = inputs(shape, num_ids)
    full = scores(x, y, ids)
    rows, columns = log_sum_exp(x, y, ids, tile=tile)
    for got, dim in ((rows, 1), (columns, 0)):
        torch.testing.assert_close(got, full.logsumexp(dim), rtol=1e-12, atol=1e-12)
    # The exponentials are finite where there are no negatives, and so are their gradients.
    e = full.exp()
    row_weights, column_weights = random(shape[0]), random(shape[1])
    ours = rows.exp() @ row_weights + columns.exp() @ column_weights
    naive = e.sum(1) @ row_weights + e.sum(0) @ column_weights
    assert_same_gradients(ours, naive, x, y)


@pytest.mark.parametrize("size", [1.0, 30.0, 1000.0])
def test_log_sum_exp_of_scores_far_apart(size: float) -> None:
    """One exponential for rows and columns would lose those that lie far below the others."""
    x, y = random(9, 4), random(7, 4)
    x[::2] *= size
    y[::3] *= size
    rows, columns = log_sum_exp(x.requires_grad_(), y.requires_grad_(), tile=3)
    naive_rows, naive_columns = (x @ y.T).logsumexp(1), (x @ y.T).logsumexp(0)
    torch.testing.assert_close(rows, naive_rows, rtol=1e-13, atol=1e-12)
    torch.testing.assert_close(columns, naive_columns, rtol=1e-13, atol=1e-12)
    weights = random(16)
    ours = torch.cat([rows, columns]) @ weights
    naive = torch.cat([naive_rows, naive_columns]) @ weights
    for got, expected in zip(
        torch.autograd.grad(ours, (x, y)), torch.autograd.grad(naive, (x, y)), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_gradients_agree_with_finite_differences() -> None:
    x, y, _ = inputs((6, 5, 3), 1)
    ids = torch.arange(6) % 4, torch.arange(5)
    scale = torch.tensor([1.7], dtype=torch.float64, requires_grad=True)

    def sums(x: Tensor, y: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        return (
            *log_sum_exp(x, y, ids, scale=scale, tile=2),
            pair_sum(cubes, x, y, ids, scale=scale, tile=2),
        )

    assert torch.autograd.gradcheck(sums, (x, y, scale))
    # Embeddings that are locked leave the scale its gradient.
    assert torch.autograd.gradcheck(sums, (x.detach(), y.detach(), scale))


def cubes(scores: Tensor, row_offset: Tensor, column_offset: Tensor) -> Cell:
    """Σ (s + a + 2 b)³, with −∞ for nothing."""
    base = (scores + row_offset + 2 * column_offset).nan_to_num(neginf=0.0)
    slopes = 3 * base**2
    return Cell((base**3).sum(), slopes, slopes.sum(1), 2 * slopes.sum(0))


@quick
@given(shapes, tile_sizes, some_ids)
def test_pair_sum(shape: tuple[int, int, int], tile: int, num_ids: int) -> None:
    x, y, ids = inputs(shape, num_ids)
    a, b = random(shape[0]).requires_grad_(), random(shape[1]).requires_grad_()
    counted = ids[0][:, None] != ids[1]
    naive = (((x @ y.T + a[:, None] + 2 * b) ** 3) * counted).sum()
    ours = pair_sum(cubes, x, y, ids, row_offset=a, column_offset=b, tile=tile)
    assert_same_gradients(ours, naive, x, y, a, b)
    # Asked for again, and by less: nothing was used up.
    ours = pair_sum(cubes, x, y.detach(), ids, row_offset=a, column_offset=b, tile=tile)
    first, again = (torch.autograd.grad(3 * ours, (x,), retain_graph=True) for _ in range(2))
    assert torch.equal(*first, *again)


@quick
@given(shapes, tile_sizes, some_ids, st.integers(0, 50))
def test_hardest_takes_the_first_of_equal_ones(
    shape: tuple[int, int, int], tile: int, num_ids: int, first_row: int
) -> None:
    x, y, ids = inputs(shape, num_ids)
    x, y = x.detach().round(), y.detach().round()  # ties, and exact products
    found = hardest(x, y, ids, first_row=first_row, tile=tile)
    full = scores(x, y, ids)
    for got, matrix, offset in ((found.columns, full, 0), (found.rows, full.T, first_row)):
        for index, values in zip(got.tolist(), matrix.tolist(), strict=True):
            best = max(values)
            assert index == (-1 if best == -torch.inf else values.index(best) + offset)


@quick
@given(shapes, tile_sizes, some_ids)
def test_semi_hard_is_the_greatest_below_else_the_greatest(
    shape: tuple[int, int, int], tile: int, num_ids: int
) -> None:
    x, y, ids = inputs(shape, num_ids)
    x, y = x.detach().round(), y.detach().round()
    limits = random(shape[0]).round(), random(shape[1]).round()
    found = hardest(x, y, ids, below=limits, tile=tile)
    full = scores(x, y, ids)
    for got, matrix, limit in ((found.columns, full, limits[0]), (found.rows, full.T, limits[1])):
        for index, values, below in zip(got, matrix.tolist(), limit.tolist(), strict=True):
            best = max([v for v in values if v < below and v > -torch.inf] or values)
            assert index == (-1 if best == -torch.inf else values.index(best))


def several_embeddings(
    shape: tuple[int, int, int], per_item: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Rows and columns of several embeddings, whose products are whole numbers and often tied."""
    *sizes, dim = shape
    x, y = (random(size, of, dim).round() for size, of in zip(sizes, per_item, strict=True))
    return x.requires_grad_(), y.requires_grad_()


def greatest(x: Tensor, y: Tensor) -> Tensor:
    return torch.einsum("ikd,jld->ijkl", x, y).flatten(2).max(2).values


several = st.tuples(st.integers(1, 3), st.integers(1, 3))  # embeddings of rows and of columns


@quick
@given(shapes, several, tile_sizes, some_ids)
def test_pair_sum_of_several_embeddings_takes_the_first_of_the_greatest(
    shape: tuple[int, int, int], per_item: tuple[int, int], tile: int, num_ids: int
) -> None:
    (x, y), (*_, ids) = several_embeddings(shape, per_item), inputs(shape, num_ids)
    a, b = random(shape[0]).requires_grad_(), random(shape[1]).requires_grad_()
    # A power of two: products of whole numbers stay exact, and ties are ties.
    scale = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    counted = ids[0][:, None] != ids[1]
    naive = (((scale * greatest(x, y) + a[:, None] + 2 * b) ** 3) * counted).sum()
    ours = pair_sum(cubes, x, y, ids, scale=scale, row_offset=a, column_offset=b, tile=tile)
    assert_same_gradients(ours, naive, x, y, a, b, scale)


@quick
@given(shapes, several, tile_sizes, some_ids)
def test_hardest_of_several_embeddings_is_that_of_the_greatest_products(
    shape: tuple[int, int, int], per_item: tuple[int, int], tile: int, num_ids: int
) -> None:
    (x, y), (*_, ids) = several_embeddings(shape, per_item), inputs(shape, num_ids)
    limits = random(shape[0]).round(), random(shape[1]).round()
    scores, one = greatest(x, y), torch.eye(shape[1], dtype=torch.float64)
    for below in (None, limits):
        found = hardest(x, y, ids, below=below, tile=tile)
        expected = hardest(scores, one, ids, below=below)
        assert torch.equal(found.columns, expected.columns)
        assert torch.equal(found.rows, expected.rows)


@quick
@given(shapes, several, tile_sizes)
def test_a_tile_has_no_more_products_than_it_would_of_one_embedding(
    shape: tuple[int, int, int], per_item: tuple[int, int], tile: int
) -> None:
    x, y = several_embeddings(shape, per_item)
    tiles = Tiles(x, y, None, tile)
    for one in tiles:
        products = tiles.by_product(one, one.scores)
        assert max(products.shape) <= max(tile, *per_item)


@quick
@given(shapes, some_ids)
def test_num_negatives(shape: tuple[int, int, int], num_ids: int) -> None:
    *_, (x_ids, y_ids) = inputs(shape, num_ids)
    assert torch.equal(num_negatives(x_ids, y_ids), (x_ids[:, None] != y_ids).sum(1))


@quick
@given(shapes, tile_sizes, some_ids)
def test_tiles_are_the_scores(shape: tuple[int, int, int], tile: int, num_ids: int) -> None:
    x, y, ids = inputs(shape, num_ids)
    full = scores(x, y, ids).detach()
    seen = torch.zeros(shape[:2])
    for one in Tiles(x, y, ids, tile):
        torch.testing.assert_close(one.scores, full[one.both])
        assert max(one.scores.shape) <= tile
        seen[one.both] += 1
    assert (seen == 1).all()


def test_where_ids_hardly_repeat_few_tiles_are_compared() -> None:
    ids = torch.randperm(64) * 2**50
    x = random(64, 2)
    tiles = Tiles(x, x, (ids, ids), 8)
    assert tiles.ids is not None
    assert sum(tiles.ids.may_meet(*blocks) for blocks in tiles.blocks()) == 8


def test_a_cpus_tile_fits_its_cache() -> None:
    assert tile_size(torch.device("cpu")) ** 2 * 4 <= 2**20


def test_a_gpus_tile_is_the_same_at_every_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = set()
    for free in (2**20, 2**33, 2**37):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_, free=free: (free, 2**37))
        sizes.add(tile_size(torch.device("cuda", 0)))
    assert sizes == {4096}


def found_without_doubt() -> tuple[Tensor, Tensor]:
    corners = torch.eye(16, dtype=torch.float64)
    return corners, F.normalize(corners + 0.02 * random(16, 16), dim=1)


def test_pairs_found_without_doubt_keep_their_gradient_in_single_precision() -> None:
    torch.manual_seed(0)
    x, y = found_without_doubt()
    gradients = []
    for dtype in (torch.float64, torch.float32):
        loss = InfoNCE(scale=50.0).to(dtype)
        images = x.to(dtype, copy=True).requires_grad_()
        loss(images, y.to(dtype), torch.arange(16)).backward()
        gradients.append(images.grad.double())
    exact, single = gradients
    assert 0 < exact.abs().max() < 1e-12  # against 1, what cancels is lost at 1e-7
    assert (single - exact).abs().max() < 1e-3 * exact.abs().max()


@pytest.mark.parametrize(("scale", "tolerance"), [(14.0, 0.02), (100.0, 0.1)])
def test_bfloat16_embeddings_within_their_precision(scale: float, tolerance: float) -> None:
    torch.manual_seed(0)
    x, y = F.normalize(random(64, 32), dim=1), random(64, 32)
    y = F.normalize(x + 0.2 * y, dim=1)
    results = []
    for dtype in (torch.float64, torch.bfloat16):
        loss = InfoNCE(scale=scale).to(torch.promote_types(dtype, torch.float32))
        images = x.to(dtype, copy=True).requires_grad_()
        value = loss(images, y.to(dtype), torch.arange(64))
        value.backward()
        assert images.grad.dtype == dtype
        results.append((value.item(), images.grad.double()))
    (exact, exact_gradient), (half, half_gradient) = results
    assert abs(half - exact) < tolerance * max(exact, 1)
    assert (half_gradient - exact_gradient).norm() < tolerance * 2 * exact_gradient.norm()


@pytest.mark.parametrize(
    "given",
    [
        {"kind": "info_nce", "scale": 14},
        {"kind": "sigmoid"},
        {"kind": "mutual_information"},
        {"kind": "mutual_information", "estimator": "dv"},
    ],
    ids=lambda given: " ".join(map(str, given.values())),
)
def test_products_in_bfloat16_are_near(given: dict[str, Any]) -> None:
    torch.manual_seed(0)
    x, noise = torch.randn(2, 64, 32)
    x, y = F.normalize(x, dim=1), F.normalize(x + noise, dim=1)
    results = []
    for dtype in ("float32", "bfloat16"):
        config: Any = TypeAdapter(ObjectiveConfig).validate_python(given | {"matmul_dtype": dtype})
        leaves = [x.clone().requires_grad_(), y.clone().requires_grad_()]
        value = config.build()(*leaves, torch.arange(64) % 60)
        value.backward()
        assert value.dtype == leaves[1].grad.dtype == torch.float32
        results.append([value.detach(), *(leaf.grad for leaf in leaves)])
    for exact, rounded in zip(*results, strict=True):
        assert 0 < (rounded - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize(
    ("rows", "columns", "ids"),
    [
        (6, 1, torch.arange(6)),
        (6, 6, torch.arange(12)),
        (6, 6, torch.zeros(1, dtype=torch.int64)),
        (6, 6, torch.arange(6).int()),
    ],
)
def test_pairs_that_do_not_go_together_are_refused(rows: int, columns: int, ids: Tensor) -> None:
    with pytest.raises(ValueError, match="must have a row a pair"):
        Pairs.of(random(rows, 4), random(columns, 4), ids)


def test_offsets_of_less_precision_leave_sums_precise() -> None:
    x, y = random(5, 3), random(4, 3)
    offset = torch.ones(5)
    got = pair_sum(cubes, x, y, row_offset=offset)
    torch.testing.assert_close(got, ((x @ y.T + 1) ** 3).sum(), rtol=1e-13, atol=1e-13)
