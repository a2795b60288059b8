"""Model FLOPs are those of a count by hand, of all of a step and nothing twice."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from xmodal.costs.flops import Flops, StepFlops, flops_of_step
from xmodal.data.batch import Batch
from xmodal.methods.clip import ClipConfig
from xmodal.methods.method import Method
from xmodal.objectives import InfoNCE
from xmodal.objectives.norm_softmax import PairedNormSoftmax
from xmodal.objectives.pairwise.tiles import Tiles
from xmodal.training.parts import select_trained

WIDTH, HEADS, LENGTH, VOCABULARY, DIM = 16, 2, 12, 40, 8
TEXT: dict[str, Any] = {"kind": "transformer", "width": WIDTH, "layers": 2, "heads": HEADS}


def clip(text: Mapping[str, Any] = TEXT, **image: Any) -> Method:
    """A method of random weights."""
    image = {"kind": "timm", "name": "test_vit", "weights": "random", "size": 32} | image
    config = ClipConfig.model_validate({"image": image, "text": text, "embedding": DIM})
    method: Method = config.build(vocabulary=VOCABULARY)
    return method


def batch_of(size: int, *, length: int = LENGTH, pixels: int = 32) -> Batch:
    """A batch without values."""
    tokens = torch.empty(size, length, dtype=torch.int64, device="meta")
    return Batch(
        images=torch.empty(size, 3, pixels, pixels, dtype=torch.uint8, device="meta"),
        tokens=tokens,
        token_mask=tokens.bool(),
        image_ids=tokens[:, 0],
    )


def blocks(layers: int, length: int, width: int) -> int:
    """Forward FLOPs of one sample in transformer blocks: 12 d² weights, and attention."""
    return layers * length * (2 * 12 * width**2 + 4 * length * width)


def test_vit_b_32_and_the_text_tower_of_clip_as_counted_by_hand() -> None:
    size, length, dim = 256, 77, 512
    text = {"kind": "clip_text", "context": length, "width": 512, "layers": 12, "heads": 8}
    config = ClipConfig.model_validate(
        {
            "image": {"kind": "timm", "name": "vit_base_patch32_clip_224", "weights": "random"},
            "text": text | {"mlp": 2048},
            "image_head": {"hidden": []},
            "text_head": {"hidden": []},
            "embedding": dim,
        }
    )
    with torch.device("meta"):
        method: Any = config.build(vocabulary=49408)
    method.loss = InfoNCE()  # which looks at values
    found = flops_of_step(method, batch_of(size, length=length, pixels=224))
    patches = 49 * 2 * 3 * 32**2 * 768
    image = patches + blocks(12, 50, 768)
    heads = 2 * (768 + 512) * dim
    assert found.forward["image"] == pytest.approx(size * image, rel=0.01)
    assert found.forward["text"] == pytest.approx(size * blocks(12, length, 512), rel=0.01)
    assert found.forward["heads"] == pytest.approx(size * heads, rel=0.01)
    assert found.forward["objective"] == pytest.approx(2 * size**2 * dim, rel=0.01)
    # Backward is twice that: only the pixels have no gradient.
    assert found.backward["image"] == pytest.approx(size * (2 * image - patches), rel=0.01)
    total = 3 * (found.forward["text"] + found.forward["heads"] + found.forward["objective"])
    assert found.total == pytest.approx(total + size * (3 * image - patches), rel=0.01)


def test_of_a_locked_tower_the_forward_pass_alone_is_counted() -> None:
    method = clip()
    whole = flops_of_step(method, batch_of(4))
    select_trained(method, ["image.head", "text"])
    part = flops_of_step(method, batch_of(4))
    assert part.forward == whole.forward
    assert part.backward["image"] == 0
    assert part.backward["text"] == whole.backward["text"] > 0


def test_counts_of_three_lengths_and_sizes_give_all_others() -> None:
    method = clip()
    steps = StepFlops(method)
    for length in (3, 9, 12):
        steps.of(batch_of(4, length=length), 4)
    for length, size in ((5, 40), (12, 7), (2, 1)):
        expected = StepFlops(method).of(batch_of(4, length=length), size)
        found = steps.of(batch_of(4, length=length), size)
        assert found.total == pytest.approx(expected.total, rel=1e-9)
    assert len(steps.by_length) == 3


def gru_by_hand(tokens: int, word: int, width: int) -> int:
    return tokens * 2 * (word + width) * 3 * width


def test_recurrent_networks_count_as_products_of_the_words_that_there_are() -> None:
    method = clip({"kind": "gru", "word": 6, "width": 10})
    found = flops_of_step(method, batch_of(4))
    assert found.forward["text"] == gru_by_hand(4 * LENGTH, 6, 10)
    assert found.backward["text"] == pytest.approx(2 * found.forward["text"], rel=0.05)
    captions = Batch(
        images=torch.zeros(2, 3, 32, 32, dtype=torch.uint8),
        tokens=torch.ones(2, LENGTH, dtype=torch.int64),
        token_mask=torch.arange(LENGTH) < torch.tensor([[3], [8]]),
        image_ids=torch.arange(2),
    )
    short = flops_of_step(method, captions).forward["text"]
    assert short == pytest.approx(gru_by_hand(3 + 8, 6, 10), rel=0.01)
    moved = captions.to(torch.device("cpu"))  # which knows lengths of its own
    assert flops_of_step(method, moved).forward["text"] == short


def test_counting_leaves_the_method_and_random_state_as_they_are() -> None:
    method = clip(name="test_resnet").train()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    state = torch.get_rng_state()
    flops_of_step(method, batch_of(4))
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert not any(weights.grad is not None for weights in method.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert not method.loss.monitors  # type: ignore[union-attr]


def test_many_proxies_are_counted_in_few_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    method: Any = clip()
    method.loss = PairedNormSoftmax(100_000, DIM)
    tiles, products = list[int](), Tiles.products
    monkeypatch.setattr(
        Tiles, "products", lambda self, *of: (tiles.append(1), products(self, *of))[1]
    )
    size = 4
    found = flops_of_step(method, batch_of(size)).forward["objective"]
    assert found == pytest.approx(2 * 2 * size * 100_000 * DIM, rel=0.01)
    assert len(tiles) == 3 * 2  # of each of three sizes


def test_parts_add_up() -> None:
    flops = Flops({"image": 1.0, "objective": 2.0}, {"image": 4.0})
    assert flops.total == 7
