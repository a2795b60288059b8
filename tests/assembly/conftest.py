"""The smallest recipe, read with overrides."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.recipes import MINIMAL
from xmodal.assembly.recipe import Recipe, read_recipe
from xmodal.errors import UserError


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Recipe]:
    """Read the smallest recipe with these overrides."""
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(MINIMAL))
    return lambda *overrides: read_recipe("small", overrides, tmp_path)


@pytest.fixture
def refusal(read: Callable[..., Recipe]) -> Callable[..., str]:
    """The line that the smallest recipe with these overrides is refused with."""

    def refused(*overrides: str) -> str:
        with pytest.raises(UserError) as caught:
            read(*overrides)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return refused
