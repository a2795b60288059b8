"""What is killed keeps no rank waiting, and leaves nothing in the run that resumes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.storm import Storm


@pytest.mark.timeout(900)  # on a busy machine; each command has a limit of its own
def test_fifteen_kills(recipe: Path, tmp_path: Path, figure: Callable[[str], None]) -> None:
    figure(Storm(recipe, tmp_path).rage(15))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_kills(recipe: Path, tmp_path: Path, figure: Callable[[str], None]) -> None:
    figure(Storm(recipe, tmp_path, seed=1).rage(100))
