"""The flags of torch that say how float32 is multiplied."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.recipes import recipe_of
from xmodal.assembly.build import build_method
from xmodal.data.tokenizers.byte_pair import train_tokenizer
from xmodal.errors import UserError
from xmodal.precision import choose_kernels, full_precision, refusing_other_kernels, set_precision

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
        ("tf32", "cuda", TF32),
        ("tf32", "cpu", FULL),
        ("bf16_weights", "cuda", TF32),
    ],
)
def test_a_run_in_fp32_has_no_tf32(
    tmp_path: Path, precision: str, device: str, expected: tuple[str, bool]
) -> None:
    recipe = recipe_of(tmp_path, training__precision=precision, training__zero={"stage": 2})
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


def test_deterministic_kernels_alone_and_then_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    choose_kernels(deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    choose_kernels(deterministic=False)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark


def test_an_operation_without_a_deterministic_kernel_is_one_line() -> None:
    # torch's own words
    error = RuntimeError(
        "median CUDA with indices output does not have a deterministic implementation, but you set "
        "'torch.use_deterministic_algorithms(True)'. You can turn off determinism just for this …"
    )
    line = "^training.deterministic: median CUDA with indices output has no deterministic kernel"
    with pytest.raises(UserError, match=line), refusing_other_kernels("training.deterministic"):
        raise error
    with pytest.raises(RuntimeError, match="other"), refusing_other_kernels("x"):
        raise RuntimeError("other")
