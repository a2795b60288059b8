"""TIRG's composition and the others, by their formulas in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.errors import UserError
from xmodal.models.composition import (
    Concatenation,
    GatedResidual,
    GatedResidualMap,
    composition,
)

BATCH, DIM, CHANNELS = 5, 4, 3


def inputs(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def unlike_the_start(module: nn.Module) -> nn.Module:
    """In float64, with parameters and statistics that are not those of an identity."""
    torch.manual_seed(1)
    for values in (*module.parameters(), *module.buffers()):
        if values.is_floating_point():
            nn.init.uniform_(values, 0.3, 2)
    for parameter in module.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter)
    return module.double()


def normalised(x: Tensor, norm: nn.modules.batchnorm._BatchNorm) -> Tensor:
    wide = (1, -1, *[1] * (x.ndim - 2))
    dims = [dim for dim in range(x.ndim) if dim != 1]
    mean, variance = norm.running_mean, norm.running_var
    if norm.training:
        mean, variance = x.mean(dims), x.var(dims, correction=0)
    x = (x - mean.view(wide)) / (variance.view(wide) + norm.eps).sqrt()
    return x * norm.weight.view(wide) + norm.bias.view(wide)


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    return x @ layer.weight.T + layer.bias


@pytest.mark.parametrize("training", [True, False])
def test_tirg_is_a_gated_image_and_a_residual(training: bool) -> None:
    module = unlike_the_start(GatedResidual(DIM)).train(training)
    image, text = inputs(2, BATCH, DIM)
    both = torch.cat([image, text], 1)
    norm, _, last = module.gate
    gate = linear(normalised(both, norm).relu(), last)
    norm, _, first, _, last = module.residual
    residual = linear(linear(normalised(both, norm).relu(), first).relu(), last)
    kept, added = module.scales
    torch.testing.assert_close(
        module(image, text),
        kept * gate.sigmoid() * image + added * residual,
        rtol=1e-10,
        atol=1e-10,
    )


@pytest.mark.parametrize("training", [True, False])
def test_on_a_map_every_position_sees_the_text_and_its_neighbours(training: bool) -> None:
    module = unlike_the_start(GatedResidualMap(CHANNELS, DIM)).train(training)
    maps, text = inputs(BATCH, CHANNELS, 4, 4), inputs(BATCH, DIM)
    tiled = torch.stack([torch.stack([text] * 4, 2)] * 4, 3)
    both = torch.cat([maps, tiled], 1)
    gate, residual = (
        F.conv2d(
            F.conv2d(normalised(both, norm), first.weight, first.bias, padding=1).relu(),
            last.weight,
            last.bias,
            padding=1,
        )
        for norm, first, _, last in (module.gate, module.residual)
    )
    kept, added = module.scales
    changed = kept * gate.sigmoid() * maps + added * residual
    rows = maps.flatten(2).mT
    torch.testing.assert_close(module(rows, text), changed.mean((2, 3)), rtol=1e-10, atol=1e-10)


def test_a_map_that_is_not_square_is_refused() -> None:
    module = GatedResidualMap(CHANNELS, DIM)
    with pytest.raises(UserError, match=r"tirg_map reads square maps, and these have 6 positions"):
        module(torch.randn(BATCH, 6, CHANNELS), torch.randn(BATCH, DIM))


def test_tirg_begins_with_the_papers_scales() -> None:
    for module in (GatedResidual(DIM), GatedResidualMap(CHANNELS, DIM)):
        assert module.scales.tolist() == [1, 10]


@pytest.mark.parametrize("training", [True, False])
def test_concatenation_is_a_network_on_both(training: bool) -> None:
    module = unlike_the_start(Concatenation(DIM)).train(training)
    dropout = module.layers[5].eval()
    assert dropout.p == 0.1
    image, text = inputs(2, BATCH, DIM)
    norm, _, first, second_norm, _, _, last = module.layers
    hidden = linear(normalised(torch.cat([image, text], 1), norm).relu(), first)
    expected = linear(normalised(hidden, second_norm).relu(), last)
    torch.testing.assert_close(module(image, text), expected, rtol=1e-10, atol=1e-10)


def test_the_simplest_are_what_they_say() -> None:
    image, text = inputs(2, BATCH, DIM)
    assert torch.equal(composition("sum", CHANNELS, DIM)(image, text), image + text)
    assert composition("image", CHANNELS, DIM)(image, text) is image
    assert composition("text", CHANNELS, DIM)(image, text) is text


@pytest.mark.parametrize("module", [GatedResidual(DIM), GatedResidualMap(3, 2), Concatenation(DIM)])
def test_normalisation_is_over_all_ranks(module: nn.Module) -> None:
    names = {type(part).__name__ for part in module.modules()}
    assert names & {"SyncBatchNorm1d", "SyncBatchNorm2d"}
    assert not names & {"BatchNorm1d", "BatchNorm2d"}
