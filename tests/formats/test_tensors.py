"""Names of tensors from one format to another, and back."""

import pytest
import torch
from torch import Tensor

from xmodal.errors import UserError
from xmodal.formats.tensors import Rule, nested, read_by, transposed, write_by

RULES = nested(
    [
        Rule(
            "blocks.{n}.qkv.{rest}",
            ("q.{n}.{rest}", "kv.{n}.{rest}"),
            lambda q, kv: torch.cat([q, kv]),
            lambda qkv: qkv.split([1, 2]),
        ),
        Rule("head.weight", "proj", transposed, transposed),
    ],
    "image.",
    "visual.",
)


def theirs() -> dict[str, Tensor]:
    return {
        "visual.q.3.bias": torch.tensor([1.0]),
        "visual.kv.3.bias": torch.tensor([2.0, 3.0]),
        "visual.proj": torch.arange(6.0).view(2, 3),
    }


def test_tensors_are_joined_and_split() -> None:
    ours = read_by(RULES, theirs(), "it")
    assert set(ours) == {"image.blocks.3.qkv.bias", "image.head.weight"}
    assert ours["image.blocks.3.qkv.bias"].tolist() == [1, 2, 3]
    assert ours["image.head.weight"].shape == (3, 2)
    back = write_by(RULES, ours, "it")
    assert back.keys() == theirs().keys()
    assert all(
        back[name].equal(one) and back[name].is_contiguous() for name, one in theirs().items()
    )


def test_what_has_no_place_is_reported() -> None:
    with pytest.raises(UserError, match="it has 1 tensors of no part that xmodal knows: odd …"):
        read_by(RULES, theirs() | {"odd": torch.zeros(1)}, "it")
    assert len(read_by(RULES, theirs() | {"odd": torch.zeros(1)}, "it", ignored="odd")) == 2
    with pytest.raises(UserError, match="it has no place for odd"):
        write_by(RULES, {"odd": torch.zeros(1)}, "it")
    lacking = theirs()
    del lacking["visual.kv.3.bias"]
    with pytest.raises(UserError, match=r"it lacks the tensor visual\.kv\.3"):
        read_by(RULES, lacking, "it")
