"""Waits of training steps, told from all others by the stack that they come from."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.gpu.waits import waits_in_steps

# What torch warns of, from a file of the trainer's name.
TRAINER = """
import warnings

class Trainer:
    def _step(self):
        self.wait()

    def wait(self):
        warnings.warn("called a synchronizing CUDA operation")

    def other(self):
        warnings.warn("of something else")
"""


def test_waits_of_steps_count_but_for_the_first_of_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    names: dict[str, Any] = {}
    exec(compile(TRAINER, "/checkout/xmodal/training/trainer.py", "exec"), names)
    trainer = names["Trainer"]()
    with waits_in_steps(stage=3) as found:
        for step in range(6):
            trainer.progress = SimpleNamespace(step=step)
            trainer._step()  # counts in four of six
            trainer.wait()  # outside of steps
            trainer.other()
    assert found == {"/checkout/xmodal/training/trainer.py:9": 4}
    assert modes == ["warn", "default"]
