"""Compiled blocks: equal blocks compile once, for captions of all lengths, and compute the same."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.utils import counters

from tests.models.towers import two_towers
from xmodal.methods.clip import Clip
from xmodal.models import compiled_blocks
from xmodal.models.prepare_blocks import Checkpointing, prepare_blocks

VIT = {"embed_dim": 32, "depth": 3, "num_heads": 2, "img_size": 32, "patch_size": 8}
IMAGE = {
    "kind": "timm",
    "name": "vit_tiny_patch16_224",
    "size": 32,
    "patch_dropout": 0.25,
    "options": VIT | {"proj_drop_rate": 0.2},
}
ADAPTED = IMAGE | {"lora": {"rank": 2, "targets": ["attention"]}}
RESNET = {"kind": "timm", "name": "test_resnet", "size": 32}
TEXT = {"kind": "transformer", "width": 16, "layers": 2, "heads": 2, "dropout": 0.1}
ADAPTED_TEXT = TEXT | {"lora": {"rank": 2, "targets": ["attention"]}}
CLIP_TEXT = {"kind": "clip_text", "width": 16, "layers": 2, "heads": 2, "mlp": 32}
BERT = {
    "kind": "transformers",
    "name": "bert",
    "weights": "random",
    "settings": {
        "model_type": "bert",
        "vocab_size": 50,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    },
}
LENGTHS = (7, 9, 12, 5, 7)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    compiled_blocks._compiled.cache_clear()
    yield
    compiled_blocks._compiled.cache_clear()
    torch._dynamo.reset()


def encoded(method: Clip, length: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(length)
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=generator)
    tokens = torch.randint(1, 50, (3, length), generator=generator)
    mask = torch.arange(length) < torch.tensor([[length], [4], [2]])
    torch.manual_seed(5)
    return F.normalize(method.image(images)), F.normalize(method.text(tokens, mask))


def trace(
    image: dict[str, Any],
    text: dict[str, Any],
    checkpointing: Checkpointing = "none",
    *,
    compiles: bool,
) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of steps on captions of several lengths, and weights after them."""
    method = two_towers(image, text)
    names = list(method.state_dict())
    prepare_blocks(method, checkpointing, compiles=compiles)
    method = copy.deepcopy(method).train()
    sgd = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], 0.05)
    losses = []
    for length in LENGTHS:
        with torch.no_grad():
            before = encoded(method, length)
        images, texts = encoded(method, length)
        # The gradient cache encodes twice: what is dropped has to be the same.
        torch.testing.assert_close(before, (images.detach(), texts.detach()), rtol=1e-4, atol=1e-5)
        loss = (images @ texts.T - torch.eye(3)).square().sum()
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        losses.append(float(loss.detach()))
    assert list(method.state_dict()) == names
    return losses, dict(method.state_dict())


def assert_same_training(
    image: dict[str, Any], text: dict[str, Any], checkpointing: Checkpointing, graphs: int
) -> None:
    expected = trace(image, text, compiles=False)
    assert counters["stats"]["unique_graphs"] == 0
    losses, state = trace(image, text, checkpointing, compiles=True)
    assert losses == pytest.approx(expected[0], rel=1e-5)
    for name, value in expected[1].items():
        torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == graphs
    assert not counters["graph_break"]


def test_equal_blocks_of_all_lengths_compile_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # One graph a tower with gradients, one without. The compiler behind them is left out.
    monkeypatch.setattr(compiled_blocks, "BACKEND", "aot_eager")
    assert_same_training(IMAGE, TEXT, "selective", graphs=4)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("image", "text", "checkpointing", "graphs"),
    [
        (IMAGE, TEXT, "none", 4),
        (IMAGE, CLIP_TEXT, "blocks", 4),
        (IMAGE, BERT, "selective", 4),
        (RESNET, TEXT, "none", 10),
    ],
    ids=["dropout", "blocks", "selective", "batch-norm"],
)
def test_compiled_training_is_plain_training(
    image: dict[str, Any], text: dict[str, Any], checkpointing: Checkpointing, graphs: int
) -> None:
    assert_same_training(image, text, checkpointing, graphs)


@pytest.mark.slow
def test_adapters_are_traced_as_they_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without the compiler behind it, by which losses differ by up to 3e-5 after three such steps.
    monkeypatch.setattr(compiled_blocks, "BACKEND", "aot_eager")
    # The input of a first block has no gradient, for embeddings are locked: one more graph a tower.
    assert_same_training(ADAPTED, ADAPTED_TEXT, "none", graphs=6)


def test_evaluation_and_locked_blocks_are_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_blocks, "BACKEND", "no such backend")
    method = two_towers(IMAGE, TEXT)
    prepare_blocks(method, "none", compiles=True)
    plain = encoded(two_towers(IMAGE, TEXT).eval(), 7)
    assert all(map(torch.equal, encoded(method.eval(), 7), plain))
