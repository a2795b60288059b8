"""What the tests of sweeps share: the tiny recipe of the commands' tests, and spaces for it."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.commands import ROOT, Done
from tests.launch.conftest import finished, recipe, scenes  # noqa: F401
from tests.tuning.sweeps import write_space


def command(*arguments: object) -> list[str]:
    """Return the command line of a sweep."""
    return [sys.executable, str(ROOT / "launch" / "tune.py"), *map(str, arguments)]


def environment() -> dict[str, str]:
    """Return the variables of a sweep on CPUs, on as many threads as it asks for."""
    return os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def tune(*arguments: object, seconds: float = 280) -> Done:
    """Run launch/tune.py to its end, as a user does."""
    done = subprocess.run(
        command(*arguments), env=environment(), capture_output=True, text=True, timeout=seconds
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def space(tmp_path: Path) -> Callable[..., Path]:
    """Write a SPACE.yaml with the keys that are given, over two trials and a learning rate."""

    return partial(write_space, tmp_path)
