import torch
from torch import nn

from xmodal.models.critics import (
    ConcatenateCritic,
    CriticEncoder,
    EncodeAndDotCritic,
    PriorDiscriminator,
)


def as_convolutions(side: CriticEncoder, maps: torch.Tensor) -> torch.Tensor:
    """The side as it is in the paper: 1 × 1 convolutions, the same weights."""

    def conv(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(x, layer.weight[:, :, None, None], layer.bias)

    first, norm, _, second = side.block
    h = nn.functional.batch_norm(conv(first, maps), None, None, norm.weight, norm.bias, True)
    h = conv(second, h.relu()) + conv(side.shortcut, maps)
    return side.norm(h.permute(0, 2, 3, 1)).flatten(1, 2)


def test_a_map_goes_through_as_through_convolutions() -> None:
    torch.manual_seed(0)
    side = CriticEncoder(6, units=10)
    maps = torch.randn(4, 6, 3, 5)
    torch.testing.assert_close(side(maps), as_convolutions(side, maps))


def test_positions_are_the_map_and_vectors_a_map_of_one() -> None:
    torch.manual_seed(0)
    side = CriticEncoder(6, units=10)
    maps = torch.randn(4, 6, 3, 5)
    torch.testing.assert_close(side(maps), side(maps.flatten(2).mT))
    vectors = maps[:, :, 0, 0]
    torch.testing.assert_close(side(vectors), side(vectors[:, :, None, None])[:, 0])


def test_the_shortcut_begins_near_the_identity() -> None:
    weight = CriticEncoder(6).shortcut.weight
    assert weight.shape == (2048, 6)
    rest = weight - torch.eye(2048, 6)
    assert torch.equal(weight.diagonal(), torch.ones(6))
    assert 0.005 < rest.abs().max() <= 0.01
    assert CriticEncoder(6, units=4)(torch.randn(3, 6)).shape == (3, 4)


def test_what_normalisation_would_undo_has_no_bias() -> None:
    first, _, _, second = CriticEncoder(6).block
    assert first.bias is None
    assert second.bias is not None


def test_batch_normalisation_is_synchronised() -> None:
    names = {type(part).__name__ for part in EncodeAndDotCritic(3, 4, units=5).modules()}
    assert "SyncBatchNorm1d" in names
    assert "BatchNorm1d" not in names


def test_a_pair_of_sides_of_their_own_widths() -> None:
    x, y = EncodeAndDotCritic(3, 4, units=5)(torch.randn(6, 3, 2, 2), torch.randn(6, 4))
    assert x.shape == (6, 4, 5)
    assert y.shape == (6, 5)
    critic = ConcatenateCritic(3, 4)
    assert critic(torch.randn(6, 3), torch.randn(6, 4)).shape == (6,)
    assert [tuple(p.shape) for p in critic.parameters()][::2] == [(512, 7), (512, 512), (1, 512)]


def test_values_begin_small_whatever_the_units() -> None:
    torch.manual_seed(0)
    for units in (64, 1024):
        critic = EncodeAndDotCritic(6, 8, units)
        given = torch.randn(32, 6), torch.randn(32, 8)
        x, y = critic(*given)
        torch.testing.assert_close(x @ y.T, critic.x(given[0]) @ critic.y(given[1]).T / units**0.5)
        assert 0.3 < (x @ y.T).square().mean().sqrt() < 3


def test_the_discriminator_has_the_slopes_of_its_logits() -> None:
    torch.manual_seed(0)
    discriminator = PriorDiscriminator(4).double()
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    logits, slopes = discriminator(x)
    assert logits.shape == (6,)
    expected = torch.autograd.grad(logits.sum(), x, create_graph=True)[0]
    torch.testing.assert_close(slopes, expected)
    for parameter in (discriminator.weight0, discriminator.weight1, discriminator.weight2):
        ours, autograd = (
            torch.autograd.grad(by.square().sum(), parameter, retain_graph=True)[0]
            for by in (slopes, expected)
        )
        assert ours.any()
        torch.testing.assert_close(ours, autograd)
