"""PIE-Net against its equations, one item, sense and position at a time."""

import pytest
import torch
from torch import Tensor, nn

from xmodal.models.features import Features
from xmodal.models.heads.mlp import Mlp
from xmodal.models.pie_net import PieNet, PieTower
from xmodal.models.texts.gru import Gru

FEATURES, DIM = 6, 5
MASK = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]], dtype=torch.bool)


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3, 4, FEATURES, generator=generator)
    return rows, torch.randn(3, DIM, generator=generator)


def pie_net(senses: int) -> PieNet:
    torch.manual_seed(0)
    net = PieNet(FEATURES, DIM, senses)
    for parameter in net.parameters():  # those that begin at 0 or 1 too
        nn.init.normal_(parameter)
    return net


def by_hand(net: PieNet, rows: Tensor, mask: Tensor, whole: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings and residuals of one item, in float64."""
    w1, w2, w3, bias, scale, shift = (p.double() for p in net.parameters())
    positions = [x.double() for x, counts in zip(rows, mask, strict=True) if counts]
    embeddings, residuals = [], []
    for of_sense in w2:
        scores = torch.stack([of_sense @ (w1 @ x).tanh() for x in positions])
        weights = scores.exp() / scores.exp().sum()
        found = torch.stack([w * x for w, x in zip(weights, positions, strict=True)]).sum(0)
        residuals.append(1 / (1 + (-(w3 @ found + bias)).exp()))
        total = whole.double() + residuals[-1]
        centred = total - total.mean()
        normed = centred / (centred.square().mean() + net.norm.eps).sqrt() * scale + shift
        embeddings.append(normed / normed.square().sum().sqrt())
    return torch.stack(embeddings), torch.stack(residuals)


@pytest.mark.parametrize("senses", [1, 2, 4])
def test_embeddings_and_residuals_are_those_of_the_equations(senses: int) -> None:
    net = pie_net(senses)
    assert [name for name, _ in net.attention.named_parameters()] == ["0.weight", "2.weight"]
    assert net.attention[0].weight.shape == (FEATURES // 2, FEATURES)
    rows, whole = inputs()
    got = net(rows, MASK, whole)
    items = [by_hand(net, *item) for item in zip(rows, MASK, whole, strict=True)]
    expected = [torch.stack(parts) for parts in zip(*items, strict=True)]
    weights = torch.randn(2, 3, senses, DIM)
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.shape == (3, senses, DIM)
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)
    gradients = [
        torch.autograd.grad(
            sum((part * weight).sum() for part, weight in zip(parts, weights, strict=True)),
            list(net.parameters()),
        )
        for parts in (got, expected)
    ]
    for ours, theirs in zip(*gradients, strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_padding_is_not_looked_at_and_has_no_gradient() -> None:
    net = pie_net(2)
    rows, whole = inputs()
    expected, _ = net(rows, MASK, whole)
    filled = rows.masked_fill(~MASK[..., None], 1e4).requires_grad_()
    wider = torch.cat([filled, filled], 1), torch.cat([MASK, MASK & False], 1)
    torch.testing.assert_close(net(*wider, whole)[0], expected)
    got, _ = net(filled, MASK, whole)
    assert torch.equal(got, expected)
    got[..., 0].sum().backward()
    assert filled.grad is not None
    assert filled.grad.isfinite().all()
    assert not filled.grad[~MASK].any()
    assert filled.grad[MASK].any(-1).all()


def test_large_scores_keep_gradients_finite() -> None:
    net = pie_net(2)
    rows, whole = inputs()
    with torch.no_grad():
        net.attention[2].weight.mul_(1e6)
    embeddings, residuals = net(100 * rows, MASK, 100 * whole)
    (embeddings[..., 0].sum() + residuals.sum()).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_bf16_comes_out_in_float32_at_length_one() -> None:
    net = pie_net(2)
    rows, whole = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        embeddings, residuals = net(rows.bfloat16(), MASK, whole.bfloat16())
    assert embeddings.dtype == residuals.dtype == torch.float32
    torch.testing.assert_close(embeddings.norm(dim=2), torch.ones(3, 2))
    expected, _ = net(rows, MASK, whole)
    assert (torch.cosine_similarity(embeddings, expected, dim=2) > 0.99).all()


def test_every_parameter_has_a_dimension() -> None:
    assert all(p.ndim for p in pie_net(1).parameters())  # ZeRO's partitions take no others


def test_a_tower_adds_what_the_words_say_to_the_text() -> None:
    torch.manual_seed(0)
    gru = Gru(9, word=FEATURES, width=4)
    tower = PieTower(gru, Mlp(4, DIM), pie_net(2))
    tokens = torch.arange(8).view(2, 4)
    local = gru.local(tokens, MASK[:2])
    expected = tower.pie(local.rows, local.mask, tower.head(local.pooled))
    for ours, theirs in zip(tower(tokens, MASK[:2]), expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("positions", [1, 4])
def test_a_tower_takes_cached_features_of_an_item_or_of_its_parts(positions: int) -> None:
    backbone = Features(FEATURES)
    torch.manual_seed(0)
    tower = PieTower(backbone, Mlp(FEATURES, DIM), pie_net(3))
    rows, _ = inputs()
    mask = MASK[:, :positions]
    rows = rows[:, :positions].masked_fill(~mask[..., None], 0)
    mean = torch.stack([item[counts].mean(0) for item, counts in zip(rows, mask, strict=True)])
    expected = tower.pie(rows, mask, tower.head(mean))
    got = tower(features=rows[:, 0] if positions == 1 else rows)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
