"""The gradient cache of a plain loop against one graph of all micro-batches."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests.processes import on_ranks
from xmodal.distributed.collectives import rank, sum_over_ranks, world_size
from xmodal.objectives import InfoNCE
from xmodal.training.gradient_cache import cached_backward


class Towers(nn.Module):
    def __init__(self, *, image_is_trained: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = nn.Linear(6, 5), nn.Linear(4, 5)
        self.dropout = nn.Dropout(0.3)
        self.image.requires_grad_(image_is_trained)

    def forward(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        sides = self.image(images), self.text(self.dropout(texts))
        return F.normalize(sides[0], dim=1), F.normalize(sides[1], dim=1)


Gradients = dict[str, Tensor]


def wrapped(module: nn.Module) -> nn.Module:
    return DistributedDataParallel(module) if world_size() > 1 else module


def both_ways(size: int, image_is_trained: bool) -> tuple[Gradients, Gradients]:
    """The gradients of DDP with the cache, and those of one graph, averaged over the ranks."""
    generator = torch.Generator().manual_seed(rank())
    rows = torch.randn(7 + rank(), 10, generator=generator).double()
    parts = [part.split([6, 4], 1) for part in rows.split(size)]
    results = []
    for is_cached in (True, False):
        model = Towers(image_is_trained=image_is_trained).double()
        objective = InfoNCE(scale=5.0).double()
        torch.manual_seed(3)
        if is_cached:
            cached_backward(wrapped(model), wrapped(objective), parts)
        else:
            others = [model(*part) for part in parts[1:]]  # the first is encoded last
            both = zip(model(*parts[0]), *others, strict=True)
            objective(*map(torch.cat, both)).backward()
        named = [*model.named_parameters(), *objective.named_parameters()]
        found = {name: one.grad for name, one in named if one.grad is not None}
        if not is_cached:
            found = {name: sum_over_ranks(one) / world_size() for name, one in found.items()}
        results.append(found | {"next random number": torch.rand(1)})
    return results[0], results[1]


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(("size", "image_is_trained"), [(3, True), (3, False), (8, True)])
def test_gradients_are_those_of_one_graph(size: int, image_is_trained: bool, ranks: int) -> None:
    for cached, plain in on_ranks(ranks, both_ways, size, image_is_trained):
        assert cached.keys() == plain.keys()
        assert ("image.weight" in cached) == image_is_trained
        for name, gradient in plain.items():
            assert gradient.any()
            torch.testing.assert_close(cached[name], gradient, rtol=1e-10, atol=1e-12)


def test_what_is_not_trained_is_passed_once() -> None:
    model = Towers(image_is_trained=False)
    model.text.requires_grad_(False)
    passes: list[Tensor] = []
    model.register_forward_hook(lambda *given: passes.append(given[1][0][0]))
    parts = [part.split([6, 4], 1) for part in torch.randn(6, 10).split(2)]
    objective = InfoNCE()
    cached_backward(model, objective, parts)
    assert len(passes) == 3
    assert objective.log_scale.grad is not None
