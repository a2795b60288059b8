"""Images for the tables that name them."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def images(tmp_path: Path, encode: Callable[..., bytes]) -> Path:
    """A folder with six images."""
    (tmp_path / "img").mkdir()
    for number in range(6):
        kind, suffix = [("JPEG", "jpg"), ("PNG", "png")][number % 2]
        picture = tmp_path / f"img/{number}.{suffix}"
        picture.write_bytes(encode(kind, colour=f"hsl({number * 50},90%,50%)"))
    return tmp_path
