"""Distillation of a teacher's scores and embeddings, by the full matrix."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.objectives.equivalence import BATCH, DIM, Case, Inputs, pair_batches
from xmodal.objectives.affinity import Affinity
from xmodal.objectives.feature_distillation import FeatureDistillation

TILE = 5  # so that even these small batches take several tiles, the last ones cut short
WIDTH = 9  # of the teacher's embeddings


def affinity(**keys: float) -> Affinity:
    return Affinity(tile=TILE, **keys).double()


def features(teacher_embedding: int) -> FeatureDistillation:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FeatureDistillation(embedding=DIM, teacher_embedding=teacher_embedding).double()


def share(module: nn.Module, inputs: Inputs) -> Tensor:
    return module(inputs["x"], inputs["y"], inputs["teacher_x"], inputs["teacher_y"])


def naive_affinity(module: nn.Module, inputs: Inputs) -> Tensor:
    """The divergence, entry by entry, of both softmaxes of the full matrices."""
    scale = module.log_scale.exp().clamp(max=module.max_scale)
    student = scale * inputs["x"] @ inputs["y"].T
    teacher = module.teacher_scale * (inputs["teacher_x"] @ inputs["teacher_y"].T).detach()
    total = torch.zeros((), dtype=student.dtype, device=student.device)
    for dim in (0, 1):
        target, own = teacher.log_softmax(dim), student.log_softmax(dim)
        total = total + (target.exp() * (target - own)).sum() / len(student) / 2
    return total


def naive_features(module: nn.Module, inputs: Inputs) -> Tensor:
    """Cosines, one by one."""
    total = 0 * (inputs["x"].sum() + inputs["y"].sum())
    for project, name in ((module.images, "x"), (module.texts, "y")):
        for student, teacher in zip(inputs[name], inputs[f"teacher_{name}"], strict=True):
            total = total + 1 - F.cosine_similarity(project(student), teacher.detach(), dim=0)
    return total / BATCH


def taught(width: int, *, of_units: bool = False) -> dict[str, Inputs]:
    """Batches of pairs beside what a teacher makes of them."""
    generator = torch.Generator().manual_seed(5)
    drawn = torch.randn(2, BATCH, width, generator=generator, dtype=torch.float64)
    teacher_x, teacher_y = F.normalize(drawn[0], dim=1), F.normalize(drawn[0] + drawn[1], dim=1)
    names = ("random", "ties", "easy positives", *(() if of_units else ("scores of 100",)))
    return {
        name: {
            "x": pair_batches()[name]["x"],
            "y": pair_batches()[name]["y"],
            "teacher_x": teacher_x,
            "teacher_y": teacher_y,
        }
        for name in names
    }


def agreeing() -> dict[str, Inputs]:
    """A student that has learned all that there is to learn."""
    one = pair_batches()["random"]
    return {"random": one | {"teacher_x": one["x"], "teacher_y": one["y"]}}


CASES = [
    Case("affinity", affinity, share, naive_affinity, taught(WIDTH)),
    Case(
        "affinity, soft targets",
        partial(affinity, teacher_scale=3.0, scale=10.0),
        share,
        naive_affinity,
        taught(DIM),
    ),
    Case(
        "affinity, at its limit",
        partial(affinity, teacher_scale=20.0, scale=20.0, max_scale=20.0),
        share,
        naive_affinity,
        agreeing(),
    ),
    *(
        Case(
            f"feature distillation to {width}",
            partial(features, width),
            share,
            naive_features,
            taught(width, of_units=True),
        )
        for width in (DIM, WIDTH)
    ),
]
