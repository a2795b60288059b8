"""Layers of encoders by depth: what is locked and at which rates they learn."""

from typing import Any

import pytest
import torch
from torch import nn

from tests.models.towers import two_towers
from xmodal.errors import UserError
from xmodal.models.encoder import Encoder
from xmodal.models.images.timm_model import TimmEncoder
from xmodal.models.layer_groups import layer_factors, layer_groups, locked_layers
from xmodal.models.texts.gru import Gru
from xmodal.models.texts.transformer import Transformer
from xmodal.training.config import StageConfig
from xmodal.training.parts import parameter_groups, select_trained

VIT = {"embed_dim": 32, "depth": 3, "num_heads": 2, "img_size": 32, "class_token": True}


def names(encoder: Encoder) -> dict[str, set[str]]:
    return {group: set(found) for group, found in layer_groups(encoder).items()}


def vit() -> TimmEncoder:
    return TimmEncoder("vit_tiny_patch16_224", size=32, options=VIT)


ENCODERS: dict[str, Any] = {
    "vit": vit,
    "resnet": lambda: TimmEncoder("test_resnet", size=32),
    "efficientnet": lambda: TimmEncoder("test_efficientnet", size=32),
    "convnext": lambda: TimmEncoder("test_convnext", size=32),
    "transformer": lambda: Transformer(50, width=16, layers=3, heads=2),
    "gru": lambda: Gru(50, word=8, width=8, layers=2, bidirectional=True),
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_every_parameter_is_in_one_group(kind: str) -> None:
    encoder = ENCODERS[kind]()
    found = [name for group in layer_groups(encoder).values() for name in group]
    assert sorted(found) == sorted(name for name, _ in encoder.named_parameters())


def test_groups_run_from_the_embeddings_to_what_follows_the_last_block() -> None:
    groups = names(vit())
    assert list(groups) == ["embeddings", "blocks.0", "blocks.1", "blocks.2"]
    assert {"model.cls_token", "model.pos_embed"} < groups["embeddings"]
    assert "model.norm.weight" in groups["blocks.2"]
    assert all(".blocks.1." in name for name in groups["blocks.1"])
    groups = names(ENCODERS["transformer"]())
    assert groups["embeddings"] == {"positions", "words.weight"}
    assert "blocks.norm.weight" in groups["blocks.2"]
    groups = names(ENCODERS["gru"]())
    assert groups["embeddings"] == {"words.weight"}
    assert "states.weight_ih_l1_reverse" in groups["blocks.1"]


def test_stages_of_a_convolutional_network_come_after_its_stem() -> None:
    groups = list(names(ENCODERS["efficientnet"]()).values())
    assert "model.conv_stem.weight" in groups[0]
    assert {"model.conv_head.weight", "model.bn2.weight"} < groups[-1]


def trained(method: nn.Module) -> set[str]:
    return {name for name, p in method.named_parameters() if p.requires_grad}


def of(method: nn.Module, *parts: str) -> set[str]:
    return {name for name, _ in method.named_parameters() if name.startswith(parts)}


def test_a_number_locks_the_first_groups_of_a_tower() -> None:
    method = two_towers()
    select_trained(method, ["*"], {"image": 2})
    model = "image.backbone.model"
    first = [f"{model}.{name}" for name in ("cls_token", "pos_embed", "patch_embed", "blocks.0.")]
    assert trained(method) == of(method, "") - of(method, *first)


def test_groups_are_locked_by_name_or_pattern_and_norms_wherever_they_are() -> None:
    method = two_towers()
    select_trained(method, ["image", "text"], {"text": ["embeddings", "norms"], "image": ["bl*"]})
    text = of(method, "text.")
    kept = {n for n in text if "norm" in n or "words" in n or "positions" in n}
    stem = [f"image.backbone.model.{name}" for name in ("cls_token", "pos_embed", "patch_embed")]
    assert len(kept) == 2 + 2 * 2 * 2 + 2
    assert trained(method) == of(method, "image.head", *stem) | (text - kept)


@pytest.mark.parametrize(
    ("lock", "message"),
    [
        ({"image": 9}, "lock.image: the tower has 4 groups (embeddings, blocks.0 to blocks.2), "),
        ({"text": ["emb"]}, "lock.text: 'emb' is no group; the tower has 3 groups (embeddings, "),
        ({"audio": 1}, "lock: 'audio' is no tower of the method; there are: image, text"),
        ({"image": 4}, "train: all that 'image.backbone' names stays locked, by `lock`"),
    ],
)
def test_what_a_tower_does_not_have_is_one_line(lock: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        select_trained(two_towers(), ["image.backbone"], lock)
    assert message in str(caught.value)


def test_rates_are_lr_by_the_decay_to_the_number_of_groups_after() -> None:
    method = two_towers()
    rates = rates_of(method, {"lr": 1e-3, "layer_decay": {"image": 0.5}, "factors": {"text": 0.1}})
    powers = {"cls_token": 4, "patch_embed.proj.weight": 4, "blocks.0.attn.qkv.weight": 3}
    powers |= {"blocks.1.norm1.bias": 2, "blocks.2.mlp.fc1.weight": 1, "norm.weight": 1}
    for name, power in powers.items():
        assert rates[f"image.backbone.model.{name}"] == 1e-3 * 0.5**power
    assert {rates[name] for name in of(method, "image.head", "loss")} == {1e-3}
    assert {rates[name] for name in of(method, "text")} == {1e-3 * 0.1}


def test_a_number_alone_is_the_decay_of_all_towers() -> None:
    method = two_towers()
    rates = rates_of(method, {"lr": 1.0, "layer_decay": 0.5, "factors": {"text.backbone": 2}})
    assert rates["text.backbone.words.weight"] == 2 * 0.5**3
    assert rates["text.backbone.blocks.layers.1.linear1.weight"] == 2 * 0.5
    assert rates["image.backbone.model.cls_token"] == 0.5**4
    assert layer_factors(method, {"*": 1.0}).keys() == of(method, "image.back", "text.back")


def rates_of(method: nn.Module, optimizer: dict[str, Any]) -> dict[str, float]:
    stage = StageConfig.model_validate({"optimizer": optimizer})
    select_trained(method, ["*"])
    rates = {
        id(parameter): group["factor"] * stage.optimizer.lr
        for group in parameter_groups(method, stage)
        for parameter in group["params"]
    }
    return {name: rates[id(parameter)] for name, parameter in method.named_parameters()}


def test_a_decay_is_within_zero_and_one() -> None:
    with pytest.raises(ValueError, match="less than or equal to 1"):
        StageConfig.model_validate({"optimizer": {"layer_decay": 1.5}})


def test_models_of_transformers_have_their_layers() -> None:
    from transformers import BertConfig, BertModel

    class Text(Encoder):
        def __init__(self) -> None:
            super().__init__()
            config = BertConfig(
                hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
            )
            self.model = BertModel(config, add_pooling_layer=False)

    groups = names(Text())
    assert list(groups) == ["embeddings", "blocks.0", "blocks.1"]
    assert all(".embeddings." in name for name in groups["embeddings"])
    assert all(".layer.1." in name for name in groups["blocks.1"])


def test_an_encoder_without_a_row_of_blocks_is_one_group() -> None:
    class Flat(Encoder):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(2, 2), nn.LayerNorm(2)

    assert list(names(Flat())) == ["embeddings"]
    assert locked_layers(nn.ModuleDict({"x": Flat()}), {"x": ["norms"]}) == {
        "x.two.weight",
        "x.two.bias",
    }


def test_patches_are_dropped_in_training_alone() -> None:
    encoder = TimmEncoder("vit_tiny_patch16_224", size=32, options=VIT, patch_dropout=0.5)
    images = torch.randint(0, 255, (2, 3, 32, 32), dtype=torch.uint8)
    assert encoder.train().local(images).rows.shape[1] == 2  # of 4
    assert encoder.eval().local(images).rows.shape[1] == 4
    assert encoder(images).equal(encoder(images))
    with pytest.raises(UserError, match=r"timm refuses test_resnet: .*patch_drop_rate"):
        TimmEncoder("test_resnet", size=32, patch_dropout=0.5)
