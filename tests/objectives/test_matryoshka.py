"""Several widths of one embedding; values and gradients are in test_equivalence.py."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from xmodal.methods.clip import ClipConfig
from xmodal.models.images.features import ImageFeaturesConfig
from xmodal.models.texts.features import TextFeaturesConfig
from xmodal.objectives import (
    Circle,
    GlobalContrastive,
    InfoNCE,
    Margin,
    Matryoshka,
    MultiSimilarity,
    MutualInformation,
    Sigmoid,
    SmoothAp,
    SupervisedContrastive,
    Triplet,
)
from xmodal.objectives.config import ObjectiveConfig
from xmodal.objectives.extra import Extra

WIDTHS = (16, 32, 64, 128)


def embeddings(size: int = 256) -> tuple[Tensor, Tensor]:
    x, y = F.normalize(torch.randn(2, size, WIDTHS[-1]), dim=2)
    return x.requires_grad_(), y.requires_grad_()


class Multiplications(TorchDispatchMode):
    """Counts the multiplications of matrix products."""

    total = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function.overloadpacket.__name__ in ("mm", "addmm", "addmm_"):
            *_, a, b = args
            self.total += a.numel() * b.shape[1]
        return function(*args, **(kwargs or {}))


ONE_PASS = [
    *(InfoNCE, Sigmoid, Triplet, Circle, Margin),
    *(MultiSimilarity, SmoothAp, SupervisedContrastive, MutualInformation),
]


@pytest.mark.parametrize("kind", ONE_PASS)
@pytest.mark.parametrize("extra", [False, True])
def test_all_widths_multiply_as_often_as_one(kind: type, *, extra: bool) -> None:
    ids, (more, _) = torch.arange(256), embeddings()
    given = {"extra": [Extra(more, ids + 256)]} if extra else {}

    def multiplications(objective: torch.nn.Module) -> int:
        with Multiplications() as counted:
            objective(*embeddings(), ids, **given).backward()
        return counted.total

    plain = multiplications(kind())
    assert plain >= 3 * 256 * 256 * 128
    assert multiplications(Matryoshka(widths=WIDTHS, objective=kind)) == plain


def test_a_single_width_is_the_objective_itself() -> None:
    x, y = embeddings(40)
    whole = Matryoshka(widths=[128], weights=[2.0])(x, y)
    torch.testing.assert_close(whole, 2 * InfoNCE()(x, y), rtol=1e-5, atol=0)


def test_lower_precision_of_products_is_that_of_all_widths() -> None:
    x, y = embeddings(64)
    exact, rounded = (
        Matryoshka(widths=WIDTHS, objective=lambda dtype=dtype: InfoNCE(matmul_dtype=dtype))(x, y)
        for dtype in ("float32", "bfloat16")
    )
    assert rounded != exact
    torch.testing.assert_close(rounded, exact, rtol=0.01, atol=0)


def test_what_keeps_averages_of_other_widths_is_refused() -> None:
    x, y = embeddings(8)
    samples = torch.arange(8)
    kept = Matryoshka(widths=[16, 128], objective=lambda: GlobalContrastive(num_samples=8))
    with pytest.raises(ValueError, match="num_widths: it keeps averages of 1 width"):
        kept(x, y, samples, samples=samples)
    information = Matryoshka(widths=[16, 128], objective=lambda: MutualInformation(estimator="dv"))
    with pytest.raises(ValueError, match="widths: it keeps averages of 1 width"):
        information(x, y, samples)
    with pytest.raises(ValueError, match="of maps has no scores of several widths"):
        Matryoshka(widths=[16, 128], objective=MutualInformation)(x[:, None], y, samples)


def test_embeddings_of_another_width_are_refused() -> None:
    x, y = torch.randn(2, 8, 100)
    with pytest.raises(ValueError, match="the last of the widths must be that of the embeddings"):
        Matryoshka(widths=WIDTHS)(x, y)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"widths": [64, 32]}, "widths must rise"),
        ({"widths": [32, 64], "weights": [1]}, "weights must be 2, one a width, not 1"),
        ({"objective": {"kind": "matryoshka"}}, "it is one of a single width; kind: matryoshka is"),
    ],
)
def test_wrong_keys_are_found_before_training(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TypeAdapter(ObjectiveConfig).validate_python({"kind": "matryoshka"} | given)


def test_the_last_width_is_that_of_the_method() -> None:
    given = {"image": ImageFeaturesConfig(features=8), "text": TextFeaturesConfig(features=8)}
    objective = {"kind": "matryoshka", "widths": [8, 16]}
    assert ClipConfig(**given, embedding=16, objective=objective)
    with pytest.raises(ValueError, match="the last is 16; it must be embedding, 32"):
        ClipConfig(**given, embedding=32, objective=objective)
