"""Adapters on encoders: what they change, what they leave, what peft reads and writes."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.models.towers import IMAGE, OPTIONS, TEXT, features, two_towers
from xmodal.errors import UserError
from xmodal.methods.clip import Clip
from xmodal.models.adapter_files import save_adapter
from xmodal.models.adapters import adapted_encoders, adapted_weights, base_weights, merge_adapters
from xmodal.models.encoder import Encoder
from xmodal.models.layer_groups import layer_groups
from xmodal.training.parts import select_trained

LORA: dict[str, Any] = {"rank": 4, "alpha": 8}
CLIP_TEXT = {"kind": "clip_text", "width": 16, "layers": 2, "heads": 2, "mlp": 32}
CONVOLUTIONS = {"kind": "timm", "name": "test_efficientnet", "size": 32}


def adapted(
    image: dict[str, Any] = IMAGE, text: dict[str, Any] = TEXT, *, changed: bool = True, **lora: Any
) -> Clip:
    """Two towers with adapters, which change something unless told otherwise."""
    of_image = {"targets": ["convolutions"]} if image is CONVOLUTIONS else {}
    method = two_towers(image | {"lora": LORA | of_image | lora}, text | {"lora": LORA})
    weights = two_towers(image, text).state_dict()
    for name, tensor in base_weights(method).items():
        tensor.copy_(weights[name])
    for name, parameter in method.named_parameters():
        if changed and "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return method


def assert_near(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6 * float(other.abs().max()))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("image", "text"), [(IMAGE, TEXT), (IMAGE, CLIP_TEXT), (CONVOLUTIONS, TEXT)]
)
def test_new_adapters_change_nothing_and_leave_the_weights_their_names(
    image: dict[str, Any], text: dict[str, Any], training: bool
) -> None:
    method, plain = adapted(image, text, changed=False), two_towers(image, text)
    found, expected = base_weights(method), plain.state_dict()
    assert list(found) == list(expected)
    assert all(tensor.equal(expected[name]) for name, tensor in found.items())
    method.train(training), plain.train(training)
    with torch.no_grad():
        assert_near(features(method), features(plain))


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize(
    ("image", "text"), [(IMAGE, TEXT), (IMAGE, CLIP_TEXT), (CONVOLUTIONS, CLIP_TEXT)]
)
def test_merged_is_unmerged(image: dict[str, Any], text: dict[str, Any], dora: bool) -> None:
    method = adapted(image, text, dora=dora).eval()
    plain = two_towers(image, text).eval()
    with torch.no_grad():
        unmerged, before = features(method), features(plain)
        merge_adapters(method)
        assert_near(features(method), unmerged)
    for one, other in zip(unmerged, before, strict=True):
        assert (one - other).abs().max() > 1e-2 * other.abs().max()
    assert list(method.state_dict()) == list(plain.state_dict())
    assert [type(part) for part in method.modules()] == [type(part) for part in plain.modules()]
    assert not adapted_encoders(method)


def test_evaluation_without_gradients_sees_adapters_too() -> None:
    # PyTorch's fused path reads the weights of layers and calls none of them.
    for targets in (["attention"], ["mlp"]):
        method = two_towers(text=TEXT | {"lora": LORA | {"targets": targets}}).eval()
        plain = features(method)[1].detach()
        for name, parameter in method.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.1)
        with_gradients = features(method)[1]
        with torch.no_grad():
            assert_near([features(method)[1]], [with_gradients])
        assert (with_gradients - plain).abs().max() > 1e-2


def test_only_adapters_and_what_has_none_are_trained() -> None:
    method = adapted()
    select_trained(method, ["*"])
    trained = {name for name, p in method.named_parameters() if p.requires_grad}
    assert {name for name in trained if ".backbone." in name} == {
        name for name, _ in method.named_parameters() if ".lora_" in name
    }
    assert {"image.head.0.weight", "loss.log_scale"} & trained
    assert trained.isdisjoint(adapted_weights(method))
    with pytest.raises(UserError, match=r"all that 'text\.backbone\.words' names stays locked"):
        select_trained(method, ["text.backbone.words"])


def test_adapters_are_in_the_group_of_their_layer() -> None:
    method = adapted(text=CLIP_TEXT)
    select_trained(method, ["*"], {"image": 3})
    trained = {n for n, p in method.image.backbone.named_parameters() if p.requires_grad}
    assert trained
    assert all(".blocks.2." in name for name in trained)
    groups = layer_groups(adapted_encoders(method)["text.backbone"])
    assert any("blocks.1.attn.qkv.lora_A" in name for name in groups["blocks.1"])


@pytest.mark.parametrize(
    ("image", "lora", "message"),
    [
        (IMAGE, {"targets": ["convolutions"]}, "its kinds of layers: attention, mlp"),
        (CONVOLUTIONS, {"targets": ["mlp"]}, "its kinds of layers: convolutions"),
        (IMAGE, {"targets": ["qvk"]}, "method.image.lora.targets: the encoder has no layer 'qvk'"),
    ],
)
def test_targets_that_an_encoder_lacks_are_one_line(
    image: dict[str, Any], lora: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        two_towers(image | {"lora": lora})
    assert message in str(caught.value)


def test_what_cannot_be_adapted_says_so() -> None:
    with pytest.raises(UserError, match=r"method\.text\.lora\.targets: .*: none that adapters"):
        two_towers(text={"kind": "gru", "word": 8, "width": 8, "lora": {}})
    with pytest.raises(UserError, match="peft has no DoRA for PyTorch's attention"):
        two_towers(text=TEXT | {"lora": {"dora": True}})


def test_targets_may_be_modules_as_in_peft() -> None:
    method = two_towers(IMAGE | {"lora": {"targets": ["qkv", "blocks.0.mlp.fc?"]}})
    names = {n.split(".lora_A")[0] for n, _ in method.named_parameters() if ".lora_A" in n}
    layers = [*(f"blocks.{i}.attn.qkv" for i in range(3)), "blocks.0.mlp.fc1", "blocks.0.mlp.fc2"]
    assert names == {f"image.backbone.model.{name}" for name in layers}


# Files of peft.


def encoders(method: Clip) -> list[tuple[str, Encoder]]:
    return [(n.split(".")[0], e) for n, e in adapted_encoders(method).items()]


@pytest.mark.parametrize("dora", [False, True])
def test_peft_puts_our_adapters_on_its_own_model(dora: bool, tmp_path: Path) -> None:
    from peft import PeftModel

    method, plain = adapted(dora=dora), two_towers()
    for side, encoder in encoders(method):
        save_adapter(encoder, tmp_path / side)
        assert {path.name for path in (tmp_path / side).iterdir()} == {
            "adapter_config.json",
            "adapter_model.safetensors",
        }
    theirs = copy.deepcopy(plain)
    for side in ("image", "text"):
        backbone = getattr(theirs, side).backbone
        loaded: Any = PeftModel.from_pretrained(backbone.wrapped, tmp_path / side)
        if backbone.wrapped is backbone:
            getattr(theirs, side).backbone = loaded
        else:
            backbone.model.forward = loaded.base_model.model.forward
    # In training: PyTorch's fused path, which ignores peft's adapters, is closed then.
    with torch.no_grad():
        assert_near(features(theirs.train()), features(method.train()))


@pytest.mark.parametrize(("text", "dora"), [(TEXT, False), (CLIP_TEXT, True)])
def test_adapters_of_peft_are_read(text: dict[str, Any], dora: bool, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    plain = two_towers(text=text)
    modules = {
        "image": ["qkv", "attn.proj"],
        "text": ["self_attn"] if text is TEXT else ["qkv", "attn.proj"],
    }
    weights = copy.deepcopy(plain.state_dict())
    paths = {side: str(tmp_path / side) for side in modules}
    config: dict[str, Any] = {"r": 4, "lora_alpha": 8}
    for side, targets in modules.items():
        wrapped = getattr(plain, side).backbone.wrapped
        use_dora = dora and side == "image"
        theirs = get_peft_model(
            copy.deepcopy(wrapped), LoraConfig(**config, use_dora=use_dora, target_modules=targets)
        )
        for name, parameter in theirs.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.1)
        theirs.save_pretrained(str(tmp_path / side))
        theirs.merge_and_unload()
        wrapped.load_state_dict(theirs.get_base_model().state_dict())
    ours = two_towers(
        IMAGE
        | {"lora": LORA | {"targets": ["attention"], "dora": dora, "weights": paths["image"]}},
        text | {"lora": LORA | {"targets": ["attention"], "weights": paths["text"]}},
    )
    for name, tensor in base_weights(ours).items():
        tensor.copy_(weights[name])
    with torch.no_grad():
        assert_near(features(ours.train()), features(plain.train()))


def test_adapters_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "image"
    save_adapter(encoders(adapted())[0][1], folder)

    def refusal(**lora: Any) -> str:
        with pytest.raises(UserError) as caught:
            two_towers(IMAGE | {"lora": LORA | {"weights": str(folder)} | lora})
        return str(caught.value)

    assert "has r=4, the recipe 2; change method.image.lora.rank to 4" in refusal(rank=2)
    assert "has lora_alpha=8.0, the recipe 1.0; change method.image.lora.alpha to 8.0" in refusal(
        alpha=1
    )
    assert "has use_dora=False, the recipe True; change method.image.lora.dora to False" in refusal(
        dora=True
    )
    more = refusal(targets=["attention"])
    assert "has more than the recipe's targets: blocks.0.mlp.fc1" in more
    assert more.endswith("targets to [attn.proj, attn.qkv, mlp.fc1, mlp.fc2]")
    assert "holds no adapter of peft" in refusal(weights=str(tmp_path))
    config = folder / "adapter_config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps(values | {"use_rslora": True}))
    assert "adapters with use_rslora=True are not supported" in refusal()
    config.write_text(json.dumps(values))
    other = IMAGE | {"options": OPTIONS | {"embed_dim": 64}}
    with pytest.raises(UserError, match=r"is for another network: .*\(4, 32\), not \(4, 64\)"):
        two_towers(other | {"lora": LORA | {"weights": str(folder)}})
