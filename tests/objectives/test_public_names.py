"""Public names of xmodal.objectives."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

import xmodal.objectives
from xmodal.components.config import Was
from xmodal.objectives import InfoNCE, Margin, MutualInformation, Sigmoid, Triplet
from xmodal.objectives.config import ObjectiveConfig, PairwiseConfig, ProxiesConfig


def test_objectives_need_neither_deepspeed_nor_ray_nor_recipes() -> None:
    code = (
        "import sys; from xmodal.objectives import *; InfoNCE(); "
        "import xmodal.training.gradient_cache; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert not imported & {"deepspeed", "ray", "transformers", "timm", "xmodal.assembly.recipe"}


def test_every_public_name_is_there() -> None:
    for name in xmodal.objectives.__all__:
        assert getattr(xmodal.objectives, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'InfoNEC'"):
        _ = xmodal.objectives.InfoNEC


def test_every_objective_of_the_package_is_public() -> None:
    own = [one for one in ObjectiveConfig.kinds.values() if one.__module__.startswith("xmodal.")]
    assert {one.built_class().__name__ for one in own} <= set(xmodal.objectives.__all__)


@pytest.mark.parametrize("kind", sorted(ObjectiveConfig.kinds))
def test_a_configuration_without_keys_builds_what_the_class_is_without_arguments(kind: str) -> None:
    kind_of = ObjectiveConfig.kinds[kind]
    needed = {"classes": 4} if issubclass(kind_of, ProxiesConfig) else {}
    config = kind_of(**needed)
    torch.manual_seed(0)
    plain = config.built_class()(**needed, **({"width": 8} if needed else {}))
    torch.manual_seed(0)
    built = config.build_for(8)
    torch.testing.assert_close(plain.state_dict(), built.state_dict(), rtol=0, atol=0)
    for name, value in config.arguments.items():
        if not callable(value):  # it is no other objective
            assert getattr(plain, name, value) == value or name == "scale"


@pytest.mark.parametrize("kind", [InfoNCE, Sigmoid, Margin, Triplet, MutualInformation])
def test_without_ids_all_other_pairs_are_negatives(kind: type) -> None:
    x, y = F.normalize(torch.randn(2, 9, 5), dim=2)
    assert kind()(x, y) == kind()(x, y, torch.arange(9) + 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InfoNCE(direction="row"), "direction must be one of both, rows, columns"),  # type: ignore[arg-type]
        (lambda: Triplet(negatives="hard"), "negatives must be one of sum, hardest, semi_hard"),  # type: ignore[arg-type]
        (lambda: InfoNCE(positives="same_id", matmul_dtype="bfloat16"), "needs matmul_dtype"),
    ],
)
def test_wrong_arguments_are_found_at_once(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_old_key_of_the_precision_still_works() -> None:
    assert Was("products") in PairwiseConfig.model_fields["matmul_dtype"].metadata
    with pytest.warns(Warning, match="products is now called matmul_dtype"):
        config = ObjectiveConfig.kinds["sigmoid"].model_validate({"products": "bfloat16"})
    assert config.matmul_dtype == "bfloat16"
