"""The smallest recipe, and recipes of two small towers whose heads alone are trained."""

from pathlib import Path
from typing import Any

from xmodal.assembly.recipe import Recipe

SIZE = 32
MINIMAL: dict[str, Any] = {
    "data": {"train": "train"},
    "method": {
        "kind": "clip",
        "image": {"kind": "timm", "name": "resnet18"},
        "text": {"kind": "transformer"},
    },
}


def recipe_of(folder: Path, **changes: Any) -> Recipe:
    """A recipe that trains the heads alone, unless `train` says otherwise.

    `stage` has further keys of the stage; `__` in a name stands for the dot of a key.
    """
    values: dict[str, Any] = {
        "run": str(folder / "run"),
        "data": {
            "train": str(folder / "set"),
            "feature_cache": str(folder / "cache"),
            "crop": None,
            "flip": False,
        },
        "method": {
            "kind": "clip",
            "image": {"kind": "timm", "name": "test_resnet", "size": SIZE},
            "text": {"kind": "transformer", "width": 16, "layers": 1, "heads": 2},
            "embedding": 8,
        },
        "stages": [{"train": changes.pop("train", ["image.head", "text.head", "loss"])}],
    }
    values["stages"][0] |= changes.pop("stage", {})
    for key, value in changes.items():
        node = values
        *parents, last = key.split("__")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return Recipe.model_validate(values)
