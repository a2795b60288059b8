"""Blocks of encoders, and the message about those that have none."""

from typing import Any

import pytest

from tests.models.towers import IMAGE, TEXT, two_towers
from xmodal.errors import UserError
from xmodal.models.blocks import blocks_of
from xmodal.models.images.timm_model import TimmEncoder
from xmodal.models.prepare_blocks import check_blocks, prepare_blocks

GRU = {"kind": "gru", "word": 8, "width": 16, "layers": 2}
FEATURES = {"kind": "features", "features": 8}


@pytest.mark.parametrize(
    ("name", "first", "number", "options"),
    [
        ("test_vit", "model.blocks.0", 6, {}),
        ("resnet18", "model.layer1.0", 8, {}),
        ("test_convnext", "model.stages.0", 9, {}),
        ("test_efficientnet", "model.blocks.0", 5, {}),
        # Its pooling by attention is larger than a block.
        ("vit_base_patch16_siglip_224", "model.blocks.0", 12, {"embed_dim": 16, "num_heads": 2}),
    ],
)
def test_blocks_are_the_modules_that_repeat(
    name: str, first: str, number: int, options: dict[str, Any]
) -> None:
    blocks = blocks_of(TimmEncoder(name, size=160, options=options))
    assert (next(iter(blocks)), len(blocks)) == (first, number)


def test_the_log_has_a_line_an_encoder() -> None:
    assert prepare_blocks(two_towers(), "none", compiles=False) == []
    assert prepare_blocks(two_towers(IMAGE, GRU), "selective", compiles=True) == [
        "image.backbone: 3 blocks, compiled at the first step and checkpointed selectively",
        "text.backbone has no blocks: it is neither compiled nor checkpointed",
    ]
    assert prepare_blocks(two_towers(IMAGE, TEXT), "blocks", compiles=False) == [
        "image.backbone: 3 blocks, checkpointed",
        "text.backbone: 2 blocks, checkpointed",
    ]


def test_what_cannot_be_prepared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_blocks(two_towers(FEATURES, GRU), "none", compiles=False, zero=3)
    with pytest.raises(UserError, match=r"no encoder of the method has blocks .*; remove training"):
        check_blocks(two_towers(FEATURES, GRU), "blocks", compiles=False, zero=0)
    with pytest.raises(UserError, match=r"training\.compile: training\.zero=3 gathers"):
        check_blocks(two_towers(), "none", compiles=True, zero=3)
    with pytest.raises(UserError, match=r"cannot be computed again selectively; write blocks"):
        check_blocks(two_towers(), "selective", compiles=False, zero=3)
    check_blocks(two_towers(), "blocks", compiles=False, zero=3)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler, and there is no no-such-compil"):
        check_blocks(two_towers(), "none", compiles=True, zero=0)
