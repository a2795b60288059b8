"""What torch reads as it starts is set, unless the user has."""

import pytest

from xmodal.torch_environment import set_torch_environment


def test_the_user_s_settings_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "TORCH_CPP_LOG_LEVEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", "INFO")
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64")
    set_torch_environment()
    assert os.environ["TORCH_CPP_LOG_LEVEL"] == "INFO"
    assert "PYTORCH_ALLOC_CONF" not in os.environ
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF")
    monkeypatch.delenv("TORCH_CPP_LOG_LEVEL")
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "")  # so that it is put back
    monkeypatch.delenv("PYTORCH_ALLOC_CONF")
    set_torch_environment()
    assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    assert os.environ["TORCH_CPP_LOG_LEVEL"] == "ERROR"
