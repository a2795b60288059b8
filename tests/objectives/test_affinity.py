"""Affinity distillation: memory, precision, and what a student learns by it alone."""

import torch
import torch.nn.functional as F
from torch import Tensor

from xmodal.objectives import Affinity, FeatureDistillation


def pairs(count: int, dim: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, count, dim, generator=generator)
    return F.normalize(x, dim=1), F.normalize(x + noise, dim=1)


def test_what_is_kept_for_the_backward_pass_is_linear_in_the_batch() -> None:
    def kept(count: int) -> int:
        found: list[int] = []
        x, y = (side.requires_grad_() for side in pairs(count, 6))
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda one: found.append(one.numel()) or one, lambda one: one
        )
        with hooks:
            Affinity(tile=16)(x, y, *pairs(count, 9, seed=1))
        return sum(found)

    assert kept(512) - kept(256) == 2 * (kept(256) - kept(128))


def test_a_student_that_agrees_has_no_loss_and_one_that_differs_learns_to_agree() -> None:
    teacher = pairs(64, 8)
    assert abs(Affinity(teacher_scale=20, scale=20)(*teacher, *teacher)) < 1e-5
    x, y = (side.clone().requires_grad_() for side in pairs(64, 8, seed=1))
    loss = Affinity(teacher_scale=20)
    optimizer = torch.optim.Adam([x, y, *loss.parameters()], lr=0.05)
    values = []
    for _ in range(300):
        optimizer.zero_grad()
        values.append(loss(F.normalize(x), F.normalize(y), *teacher))
        values[-1].backward()
        optimizer.step()
    assert values[-1] < values[0] / 50


def test_features_of_one_space_need_no_projection() -> None:
    x, y = pairs(5, 8)
    same = FeatureDistillation(embedding=8, teacher_embedding=8)
    assert not list(same.parameters())
    assert same(x, y, 3 * x, y) < 1e-6
    other = FeatureDistillation(embedding=8, teacher_embedding=6)
    assert [tuple(weight.shape) for weight in other.parameters()] == [(6, 8), (6, 8)]
