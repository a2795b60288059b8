"""The flags of torch that say how float32 is multiplied."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.recipes import recipe_of
from xmodal.assembly.build import build_method
from xmodal.data.tokenizers.byte_pair import train_tokenizer
from xmodal.precision import full_precision, set_precision

TF32, FULL = ("high", True), ("highest", False)


def flags() -> tuple[str, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.fixture(autouse=True)
def as_torch_has_them() -> Iterator[None]:
    """Begin with torch's own flags, which have convolutions in TF32."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    yield
    set_precision(tf32=False)


@pytest.mark.parametrize(
    ("precision", "device", "expected"),
    [
        ("fp32", "cuda", FULL),
        ("bf16", "cuda", TF32),
        ("auto", "cuda", TF32),
        ("auto", "cpu", FULL),
        ("bf16", "cpu", FULL),
    ],
)
def test_a_run_in_fp32_has_no_tf32(
    tmp_path: Path, precision: str, device: str, expected: tuple[str, bool]
) -> None:
    recipe = recipe_of(tmp_path, training__precision=precision)
    tokenizer = train_tokenizer(["a red house"], 16, vocabulary=300)
    for _ in range(2):  # whatever a run before has set
        build_method(recipe, tokenizer.vocabulary, torch.device(device))
        assert flags() == expected
        set_precision(tf32=expected == FULL)


def test_what_is_within_is_in_full_and_then_as_before() -> None:
    set_precision(tf32=True)
    within = []

    @full_precision()
    def fail() -> None:
        within.append(flags())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert within == [FULL]
    assert flags() == TF32
