"""What is trained, what is locked, what decays."""

import pytest
import torch
from torch import nn

from xmodal.errors import UserError
from xmodal.training.config import StageConfig
from xmodal.training.optimizers.adam import AdamConfig
from xmodal.training.optimizers.adamw import AdamWConfig
from xmodal.training.parts import locked, parameter_groups, select_trained, set_modes
from xmodal.training.schedules.cosine import CosineConfig


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 4))


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.text, self.texture = Tower(), Tower(), nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.zeros(()))


@pytest.fixture
def towers() -> Towers:
    return Towers()


def trained(method: nn.Module) -> set[str]:
    return {name for name, p in method.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("patterns", "prefixes"),
    [
        (["*"], ("image.", "text.", "texture.", "scale")),
        (["text"], ("text.",)),
        (["image.head", "scale"], ("image.head.", "scale")),
        (["*.head"], ("image.head.", "text.head.")),
        (["text*"], ("text.", "texture.")),
        (["image.backbone.1"], ("image.backbone.1.",)),
        (["image.backbone.0.weight"], ("image.backbone.0.weight",)),
        (["*.bias"], ()),
    ],
)
def test_patterns_name_parts(
    towers: Towers, patterns: list[str], prefixes: tuple[str, ...]
) -> None:
    select_trained(towers, patterns)
    names = {name for name, _ in towers.named_parameters()}
    wanted = {name for name in names if name.startswith(prefixes)} if prefixes else None
    assert trained(towers) == (wanted or {name for name in names if name.endswith(".bias")})


def test_a_later_stage_selects_anew(towers: Towers) -> None:
    select_trained(towers, ["image"])
    select_trained(towers, ["scale"])
    assert trained(towers) == {"scale"}


@pytest.mark.parametrize("pattern", ["txt", "head", "image.hed", "", "image.backbone.2"])
def test_a_pattern_of_no_part_is_refused_before_anything_changes(
    towers: Towers, pattern: str
) -> None:
    with pytest.raises(UserError) as caught:
        select_trained(towers, ["scale", pattern])
    assert repr(pattern) in str(caught.value)
    assert "parts: image, image.backbone, image.head, scale, text, text.backbone" in str(
        caught.value
    )
    assert len(trained(towers)) == len(list(towers.parameters()))


def test_locked_parts_are_in_evaluation_mode_and_do_not_change(towers: Towers) -> None:
    select_trained(towers, ["text", "image.head"])
    set_modes(towers, freeze_batch_norm=False)
    assert locked(towers.image.backbone)
    assert not locked(towers.image)
    assert not locked(nn.Dropout())
    assert not any(module.training for module in towers.image.backbone.modules())
    assert all(module.training for module in towers.text.modules())
    assert all(module.training for module in towers.image.head.modules())
    norms = [tower.backbone[1] for tower in (towers.image, towers.text)]
    before = [norm.running_mean.clone() for norm in norms]
    x = torch.randn(8, 4)
    assert towers.image.backbone(x).equal(towers.image.backbone(x))
    towers.text.backbone(x)
    assert [norm.running_mean.equal(old) for norm, old in zip(norms, before, strict=True)] == [
        True,
        False,
    ]


def test_modes_are_set_anew_for_each_stage(towers: Towers) -> None:
    for patterns in (["image"], ["text"]):
        select_trained(towers, patterns)
        set_modes(towers, freeze_batch_norm=False)
    assert towers.text.backbone[2].training
    assert not towers.image.backbone[2].training


def test_frozen_batch_norm_of_images_keeps_its_statistics_and_learns(towers: Towers) -> None:
    select_trained(towers, ["*"])
    set_modes(towers, freeze_batch_norm=True)
    norm = towers.image.backbone[1]
    assert not norm.training
    assert towers.text.backbone[1].training
    assert towers.image.backbone[2].training
    assert norm.weight.requires_grad


def test_matrices_decay_and_vectors_do_not(towers: Towers) -> None:
    select_trained(towers, ["image", "scale"])
    decaying = StageConfig(optimizer=AdamWConfig(weight_decay=0.1))
    matrices, vectors = parameter_groups(towers, decaying)
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert {p.ndim for p in matrices["params"]} == {2}
    assert {p.ndim for p in vectors["params"]} == {0, 1}
    grouped = {id(p) for group in (matrices, vectors) for p in group["params"]}
    assert grouped == {id(p) for p in towers.parameters() if p.requires_grad}
    select_trained(towers, ["scale"])
    (vectors,) = parameter_groups(towers, decaying)
    assert vectors["weight_decay"] == 0.0


def test_parts_have_their_own_rates(towers: Towers) -> None:
    select_trained(towers, ["image", "scale"])
    factors = {"image": 2.0, "image.backbone.0": 0.5}
    groups = parameter_groups(towers, StageConfig(optimizer=AdamConfig(factors=factors)))
    rates = {id(p): group["factor"] for group in groups for p in group["params"]}
    named = {name: rates[id(p)] for name, p in towers.named_parameters() if p.requires_grad}
    assert named.pop("scale") == 1.0
    # Of several that match, the last counts.
    assert {name for name, rate in named.items() if rate == 0.5} == {
        "image.backbone.0.weight",
        "image.backbone.0.bias",
    }
    assert set(named.values()) == {0.5, 2.0}
    with pytest.raises(UserError, match=r"optimizer\.factors: 'imag' is no part"):
        parameter_groups(towers, StageConfig(optimizer=AdamConfig(factors={"imag": 2.0})))


def test_parts_can_keep_their_rate(towers: Towers) -> None:
    select_trained(towers, ["*"])
    stage = StageConfig(schedule=CosineConfig(constant=("text", "image.head")))
    groups = parameter_groups(towers, stage)
    constant = {id(p) for group in groups if group["constant"] for p in group["params"]}
    assert {name for name, p in towers.named_parameters() if id(p) in constant} == {
        name for name, _ in towers.named_parameters() if name.startswith(("text.", "image.head."))
    }
    assert sum(len(group["params"]) for group in groups) == len(list(towers.parameters()))
    with pytest.raises(UserError, match=r"schedule\.constant: 'texts' is no part"):
        parameter_groups(towers, StageConfig(schedule=CosineConfig(constant=("texts",))))
