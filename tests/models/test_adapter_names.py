"""Adapters of CLIP's towers go to transformers' CLIP by peft, and come from it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.pretrained_models import write_clip
from xmodal.errors import UserError
from xmodal.formats import hugging_face
from xmodal.methods.clip import Clip, ClipConfig
from xmodal.models.adapter_files import save_adapter
from xmodal.models.adapter_names import PREFIX, from_transformers, to_transformers
from xmodal.models.adapters import adapted_encoders, base_weights

CLASSES = {"image": "CLIPVisionModel", "text": "CLIPTextModel"}
TOKENS = torch.tensor([[598, 5, 9, 599], [598, 7, 599, 599]])
QKV = ["q_proj", "k_proj", "v_proj"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip")


def adapted(folder: Path, **lora: Any) -> Clip:
    """The model of a folder with adapters on both towers, or on those that `lora` names."""
    read = hugging_face.read(folder)
    given = {side: lora.get(side) for side in CLASSES} if lora.keys() & CLASSES else {}
    towers = {
        side: getattr(read, side).model_dump() | {"lora": given[side] if given else lora}
        for side in CLASSES
    }
    heads = {"image_head": read.image_head, "text_head": read.text_head}
    config = ClipConfig.model_validate({**towers, **heads, "embedding": read.embedding})
    method: Clip = config.build(vocabulary=600)
    for name, tensor in base_weights(method).items():
        if name in read.weights:
            tensor.copy_(read.weights[name])
    return method.eval()


@torch.no_grad()
def ours(method: Clip) -> dict[str, Tensor]:
    mask = torch.arange(4) < torch.tensor([[4], [3]])
    images = pixels()
    return {"image": method.image.backbone(images), "text": method.text.backbone(TOKENS, mask)}


def pixels() -> Tensor:
    random = torch.Generator().manual_seed(3)
    return torch.randint(256, (2, 3, 32, 32), generator=random, dtype=torch.uint8)


@torch.no_grad()
def theirs(model: nn.Module, side: str, method: Clip) -> Tensor:
    model.eval()
    if side == "text":
        return model(input_ids=TOKENS).pooler_output
    backbone = method.image.backbone
    return model(pixel_values=(pixels() - backbone.mean) / backbone.std).pooler_output


def base(side: str, folder: Path) -> Any:
    import transformers

    return getattr(transformers, CLASSES[side]).from_pretrained(folder)


def assert_near(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dora", [False, True])
def test_peft_puts_ours_on_transformers_clip(folder: Path, dora: bool, tmp_path: Path) -> None:
    from peft import PeftModel

    lora: dict[str, Any] = {"rank": 4, "alpha": 8, "dora": dora}
    method = adapted(folder, **lora)
    plain = ours(method)
    for name, parameter in method.named_parameters():
        if "lora_B" in name or "magnitude" in name:
            nn.init.normal_(parameter, mean=float("magnitude" in name), std=0.3)
    wanted = ours(method)
    for name, encoder in adapted_encoders(method).items():
        side = name.split(".")[0]
        save_adapter(encoder, tmp_path / side)
        found = PeftModel.from_pretrained(base(side, folder), tmp_path / side)
        assert_near(theirs(found, side, method), wanted[side])
        assert (wanted[side] - plain[side]).abs().max() > 1e-2
    # And back, without a change of the recipe.
    again = adapted(folder, **{side: {**lora, "weights": str(tmp_path / side)} for side in CLASSES})
    for side, features in ours(again).items():
        assert features.equal(wanted[side])


@pytest.mark.parametrize(
    ("modules", "targets", "times", "dora"),
    [
        (["q_proj", "v_proj"], ["qkv"], 2, False),
        ([*QKV, "out_proj", "fc1"], ["attention", "fc1"], 3, False),
        (["out_proj", "fc2"], ["attn.proj", "fc2"], 1, False),
        (["k_proj"], ["qkv"], 1, False),
        ([*QKV, "fc1"], ["qkv", "fc1"], 3, True),
    ],
)
def test_those_of_peft_are_read(
    folder: Path, modules: list[str], targets: list[str], times: int, dora: bool, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import CLIPModel

    torch.manual_seed(1)
    config: Any = {"r": 4, "lora_alpha": 8, "target_modules": modules, "use_dora": dora}
    whole = get_peft_model(
        CLIPModel.from_pretrained(folder), LoraConfig(**config, init_lora_weights=False)
    )
    whole.save_pretrained(str(tmp_path))
    lora = {"rank": 4 * times, "alpha": 8 * times, "targets": targets, "dora": dora}
    method = adapted(folder, **lora, weights=str(tmp_path))
    for side, tower in (("image", "vision_model"), ("text", "text_model")):
        wanted = theirs(getattr(whole.base_model.model, tower), side, method)
        assert_near(ours(method)[side], wanted)
        changed = wanted - theirs(base(side, folder), side, method)
        assert changed.abs().max() > 1e-2


def test_what_does_not_fit_says_what_to_write(folder: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    def refusal(modules: list[str], dora: bool = False, **lora: Any) -> str:
        config = LoraConfig(
            r=4,
            lora_alpha=8,
            target_modules=modules,
            use_dora=dora,
            init_lora_weights=False,
        )
        get_peft_model(base("text", folder), config).save_pretrained(str(tmp_path))
        with pytest.raises(UserError) as caught:
            adapted(folder, text={"weights": str(tmp_path), "dora": dora, **lora})
        return str(caught.value)

    two = ["q_proj", "v_proj"]
    wide = "has r=4 for each of 2 layers that are one here (attn.qkv), the recipe 4; change "
    assert wide + "method.text.lora.rank to 8" in refusal(two, rank=4, alpha=8)
    other = refusal(two, rank=8, alpha=16, targets=["attention"])
    assert "lacks blocks.0.attn.proj.lora_A.weight; change method.text.lora.targets to [" in other
    assert other.endswith("[attn.qkv]")
    assert "DoRA of some of q_proj, k_proj and v_proj" in refusal(two, dora=True, rank=8, alpha=16)


def test_names_without_a_place_there_stay_ours() -> None:
    names = ("blocks.0.attn.qkv.lora_A.weight", "attn_pool.proj.lora_A.weight")
    tensors = {PREFIX + name: torch.ones(2, 3) for name in names}
    assert to_transformers(tensors) is None
    found, times = from_transformers(tensors, "vision_model")
    assert (found, times) == (tensors, 1)  # and those of before are read
