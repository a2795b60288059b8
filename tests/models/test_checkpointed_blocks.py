"""Blocks that are computed again in the backward pass: the same gradients from less memory."""

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from tests.models.towers import features, two_towers
from xmodal.methods.clip import Clip
from xmodal.models.layer_groups import encoders_of, layer_groups
from xmodal.models.prepare_blocks import Checkpointing, prepare_blocks
from xmodal.training.gradient_cache import cached_backward

VIT = {"embed_dim": 32, "depth": 3, "num_heads": 2, "img_size": 32, "patch_size": 8}
DROPPING = {"proj_drop_rate": 0.2, "attn_drop_rate": 0.1, "drop_path_rate": 0.3}
IMAGES: dict[str, dict[str, Any]] = {
    "vit": {"kind": "timm", "name": "vit_tiny_patch16_224", "size": 32, "options": VIT},
    "resnet": {"kind": "timm", "name": "test_resnet", "size": 32},
    "efficientnet": {"kind": "timm", "name": "test_efficientnet", "size": 32},
}
BERT = {
    "model_type": "bert",
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
TEXTS: dict[str, dict[str, Any]] = {
    "transformer": {
        "kind": "transformer",
        "width": 16,
        "layers": 2,
        "heads": 2,
        "dropout": 0.2,
    },
    "clip_text": {"kind": "clip_text", "width": 16, "layers": 2, "heads": 2, "mlp": 32},
    "bert": {"kind": "transformers", "name": "bert", "weights": "random", "settings": BERT},
    "gru": {"kind": "gru", "word": 8, "width": 16, "dropout": 0.2},
}
DROPPED = IMAGES["vit"] | {"patch_dropout": 0.25, "options": VIT | DROPPING}


def method(
    image: dict[str, Any],
    text: dict[str, Any],
    checkpointing: Checkpointing = "none",
) -> Clip:
    made = two_towers(image, text)
    prepare_blocks(made, checkpointing, compiles=False)
    return made


def backward(made: Clip) -> dict[str, Tensor]:
    """The gradients and statistics that a step leaves, by name."""
    torch.manual_seed(5)
    images, texts = features(made)
    (images @ texts.T).square().sum().backward()
    gradients = {name: p.grad for name, p in made.named_parameters() if p.grad is not None}
    return gradients | dict(made.named_buffers())


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("checkpointing", ["blocks", "selective"])
@pytest.mark.parametrize(
    ("image", "text"),
    [
        (DROPPED, TEXTS["transformer"]),
        (IMAGES["resnet"], TEXTS["clip_text"]),
        (IMAGES["efficientnet"], TEXTS["bert"]),
        (IMAGES["vit"] | {"lora": {"rank": 2, "dropout": 0.2}}, TEXTS["gru"]),
    ],
    ids=["dropout", "batch-norm", "in-place", "adapters"],
)
def test_gradients_are_those_of_plain_training_to_the_last_bit(
    image: dict[str, Any], text: dict[str, Any], checkpointing: Checkpointing
) -> None:
    plain = method(image, text)
    checkpointed = method(image, text, checkpointing)
    assert checkpointed.state_dict().keys() == plain.state_dict().keys()
    named = [{n: layer_groups(e) for n, e in encoders_of(m).items()} for m in (plain, checkpointed)]
    assert named[0] == named[1]
    expected = backward(plain)
    assert any(bool(value.any()) for value in expected.values())
    assert_same(backward(checkpointed), expected)


def test_a_copy_computes_itself() -> None:
    original = method(DROPPED, TEXTS["transformer"], "blocks")
    copied = copy.deepcopy(original)
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.zero_()
    assert_same(backward(copied), backward(method(DROPPED, TEXTS["transformer"])))
    assert all(parameter.grad is None for parameter in original.parameters())


def test_locked_layers_get_no_gradients() -> None:
    made = [method(IMAGES["vit"], TEXTS["clip_text"], kind) for kind in ("none", "selective")]
    for one in made:
        one.text.requires_grad_(False)
        one.image.backbone.get_submodule("model.blocks.1").requires_grad_(False)
    expected = backward(made[0])
    assert not any("text" in name or "blocks.1" in name for name in expected if "mean" not in name)
    assert_same(backward(made[1]), expected)


class Alive(TorchDispatchMode):
    """Counts bytes of results that are still held."""

    def __init__(self) -> None:
        super().__init__()
        self.results: list[weakref.ref[Tensor]] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        outputs = result if isinstance(result, tuple | list) else [result]
        self.results += [weakref.ref(one) for one in outputs if isinstance(one, Tensor)]
        return result

    def held(self) -> int:
        gc.collect()
        alive = [tensor for result in self.results if (tensor := result()) is not None]
        storages = {one.untyped_storage().data_ptr(): one.untyped_storage() for one in alive}
        return sum(storage.nbytes() for storage in storages.values())


def step(checkpointing: Checkpointing) -> tuple[int, int, int]:
    """Bytes held for the backward pass, of them seen by saved-tensor hooks; operations in all."""
    made = method(IMAGES["vit"], TEXTS["transformer"], checkpointing)
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter:
        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        with Alive() as alive, hooks:
            images, texts = features(made)
        held = alive.held()
        (images @ texts.T).square().sum().backward()
    return held, sum(saved.values()), counter.get_total_flops()


@pytest.mark.filterwarnings("ignore:A saved_tensors_hooks context")
def test_fewer_activations_are_kept_and_products_computed_again_only_by_blocks() -> None:
    plain, blocks, selective = (step(kind) for kind in ("none", "blocks", "selective"))
    assert blocks[0] < selective[0] < plain[0]
    assert blocks[1] < plain[1] / 2
    assert selective[2] == plain[2] < blocks[2]


def test_the_gradient_cache_encodes_the_same_twice() -> None:
    images = torch.randint(0, 255, (4, 3, 32, 32), dtype=torch.uint8)
    tokens = torch.randint(1, 50, (4, 5))
    mask = torch.ones_like(tokens, dtype=torch.bool)

    def gradients(checkpointing: Checkpointing) -> dict[str, Tensor]:
        made = method(DROPPED, TEXTS["transformer"], checkpointing)
        both = Both(made)
        parts = [(images[i : i + 2], tokens[i : i + 2], mask[i : i + 2]) for i in (0, 2)]
        torch.manual_seed(3)
        cached_backward(both, lambda a, b: (a @ b.T).square().sum(), parts)
        return {name: p.grad for name, p in made.named_parameters() if p.grad is not None}

    assert_same(gradients("selective"), gradients("none"))


class Both(nn.Module):
    """Both towers as one model."""

    def __init__(self, towers: Clip) -> None:
        super().__init__()
        self.towers = towers

    def forward(self, images: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.towers.image(images), self.towers.text(tokens, mask)
