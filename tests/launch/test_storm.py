"""What is killed keeps no rank waiting, and leaves nothing in the run that resumes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.storm import Storm


def test_fifteen_kills(recipe: Path, tmp_path: Path, figure: Callable[[str], None]) -> None:
    figure(Storm(recipe, tmp_path, zeros=(0, 3)).rage(15))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_kills(recipe: Path, tmp_path: Path, figure: Callable[[str], None]) -> None:
    figure(Storm(recipe, tmp_path, zeros=(0, 1, 2, 3), seed=1).rage(100))
