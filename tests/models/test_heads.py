import torch
from torch import nn

from xmodal.models.config import HeadConfig
from xmodal.models.heads import Head, Tower


def test_a_head_without_hidden_layers_is_linear() -> None:
    head = Head(HeadConfig(), features=5, dim=3).eval()
    x, y = torch.randn(2, 4, 5)
    assert head(x).shape == (4, 3)
    torch.testing.assert_close(head(x + 2 * y), head(x) + 2 * head(y), rtol=1e-4, atol=1e-5)


def test_hidden_layers_are_as_wide_as_they_say_with_dropout_before_the_last() -> None:
    head = Head(HeadConfig(hidden=[7, 8], dropout=0.5), features=5, dim=3)
    shapes = [tuple(layer.weight.shape) for layer in head if isinstance(layer, nn.Linear)]
    assert shapes == [(7, 5), (8, 7), (3, 8)]
    x = torch.randn(4, 5)
    assert not torch.equal(head.train()(x), head(x))
    assert torch.equal(head.eval()(x), head(x))


def test_a_tower_takes_inputs_or_the_features_of_its_backbone() -> None:
    backbone = nn.Linear(4, 5)
    tower = Tower(backbone, Head(HeadConfig(hidden=[6]), features=5, dim=3))
    x = torch.randn(2, 4)
    assert torch.equal(tower(x), tower(features=backbone(x)))
