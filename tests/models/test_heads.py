import pytest
import torch
import torch.nn.functional as F
from torch import nn

from xmodal.models.heads.mlp import Mlp
from xmodal.models.tower import Tower


def test_a_head_without_hidden_layers_is_linear() -> None:
    head = Mlp(features=5, dim=3).eval()
    x, y = torch.randn(2, 4, 5)
    assert head(x).shape == (4, 3)
    torch.testing.assert_close(head(x + 2 * y), head(x) + 2 * head(y), rtol=1e-4, atol=1e-5)


def test_hidden_layers_are_as_wide_as_they_say_with_dropout_before_the_last() -> None:
    head = Mlp(features=5, dim=3, hidden=[7, 8], dropout=0.5)
    shapes = [tuple(layer.weight.shape) for layer in head if isinstance(layer, nn.Linear)]
    assert shapes == [(7, 5), (8, 7), (3, 8)]
    x = torch.randn(4, 5)
    assert not torch.equal(head.train()(x), head(x))
    assert torch.equal(head.eval()(x), head(x))


@pytest.mark.parametrize("activation", ["gelu", "relu", "sigmoid"])
def test_hidden_layers_have_the_activation_that_is_asked_for(activation: str) -> None:
    head = Mlp(features=5, dim=3, hidden=[7, 6], activation=activation)
    first, second, last = (layer for layer in head if isinstance(layer, nn.Linear))
    x = torch.randn(4, 5)
    act = {"gelu": F.gelu, "relu": F.relu, "sigmoid": F.sigmoid}[activation]
    torch.testing.assert_close(head(x), act(second(act(first(x)))) @ last.weight.T)
    assert last.bias is None


def test_a_pathway_ends_in_a_sigmoid_of_a_layer_with_a_bias() -> None:
    head = Mlp(features=5, dim=3, hidden=[7], activation="sigmoid", last="sigmoid")
    first, last = (layer for layer in head if isinstance(layer, nn.Linear))
    x = torch.randn(4, 5)
    hidden = F.linear(x, first.weight, first.bias).sigmoid()
    torch.testing.assert_close(head(x), (hidden @ last.weight.T + last.bias).sigmoid())
    assert last.bias.any()


def test_an_affine_layer_has_a_bias_and_nothing_after_it() -> None:
    head = Mlp(features=5, dim=3, last="affine")
    last = head[-1]
    x = torch.randn(4, 5)
    torch.testing.assert_close(head(x), x @ last.weight.T + last.bias)
    assert last.bias.any()


def test_features_can_be_divided_by_their_length_first() -> None:
    torch.manual_seed(0)
    head = Mlp(features=5, dim=3, normalise=True)
    torch.manual_seed(0)
    plain = Mlp(features=5, dim=3)
    x = torch.randn(4, 5)
    torch.testing.assert_close(head(x), plain(x) / x.norm(dim=1, keepdim=True))
    torch.testing.assert_close(head(9 * x), head(x))
    nothing = torch.zeros(2, 5, requires_grad=True)
    head(nothing).sum().backward()
    assert nothing.grad is not None
    assert nothing.grad.isfinite().all()
    assert not head(nothing).any()


def test_features_can_be_centred_and_divided_by_their_deviation_in_the_batch() -> None:
    torch.manual_seed(0)
    head = Mlp(features=5, dim=3, normalise="batch", last="affine")
    x = 9 + torch.randn(64, 5) * torch.tensor([1.0, 1, 1, 1, 0.01])
    unit = F.normalize(x)
    mean, variance = unit.mean(0), unit.var(0, correction=0)
    standard = (unit - mean) / (variance + 1 / 5).sqrt()
    torch.testing.assert_close(head(x), standard @ head[-1].weight.T + head[-1].bias)
    for _ in range(200):
        head(x)
    single = head.eval()(x[:1])
    torch.testing.assert_close(
        single, standard[:1] @ head[-1].weight.T + head[-1].bias, atol=1e-3, rtol=0
    )


def test_a_tower_takes_inputs_or_the_features_of_its_backbone() -> None:
    backbone = nn.Linear(4, 5)
    tower = Tower(backbone, Mlp(features=5, dim=3, hidden=[6]))
    x = torch.randn(2, 4)
    assert torch.equal(tower(x), tower(features=backbone(x)))
