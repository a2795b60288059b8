"""What the tests of training share."""

from collections.abc import Callable
from typing import Any

import pytest

from xmodal.recipe import Recipe


@pytest.fixture
def make_recipe() -> Callable[..., Recipe]:
    """A small recipe; arguments replace its parts, `data` adds to its keys."""

    def made(*, data: dict[str, Any] | None = None, **parts: Any) -> Recipe:
        method = {
            "kind": "clip",
            "image": {"kind": "timm", "name": "test_resnet"},
            "text": {"kind": "transformer"},
        }
        shards = {"train": "train", "batch_size": 10} | (data or {})
        return Recipe.model_validate({"run": "run", "data": shards, "method": method} | parts)

    return made
