"""Files that weights lie in: their values are those of the tensors, and a full disk is one line."""

import errno
import os
from pathlib import Path

import pytest
import torch

from xmodal.errors import UserError
from xmodal.runs.deepspeed_mapped_weights import _mapped


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_are_those_of_the_file(tmp_path: Path, dtype: torch.dtype) -> None:
    flat = _mapped(tmp_path / "group-0", 3001, dtype)
    assert not flat.any()
    assert (tmp_path / "group-0").stat().st_blocks * 512 >= flat.nbytes  # none is a hole
    flat.copy_(torch.linspace(-3, 3, 3001))
    assert (tmp_path / "group-0").read_bytes() == flat.view(torch.uint8).numpy().tobytes()


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", fail)
    line = (
        r"^training.zero.offload_parameters.path=\S+ cannot be written: No space left on device; "
    )
    with pytest.raises(UserError, match=line):
        _mapped(tmp_path / "group-0", 3001, torch.float32)
