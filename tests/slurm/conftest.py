"""What the tests of job scripts share: a repository in which something else stands for training."""

import shutil
from pathlib import Path

import pytest

from tests.launch.conftest import embedded_tens, finished, recipe, scenes, tens  # noqa: F401

ROOT = Path(__file__).parents[2]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder with the job scripts, in which a test writes `launch/train.py`."""
    shutil.copytree(ROOT / "slurm", tmp_path / "slurm", ignore=shutil.ignore_patterns("site.sh"))
    (tmp_path / "launch").mkdir()
    return tmp_path
