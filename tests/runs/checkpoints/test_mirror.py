"""What a bucket of strangers can make of a run folder: nothing but checkpoints in it."""

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from xmodal.assembly.recipe import Recipe
from xmodal.runs.checkpoints import mirror
from xmodal.runs.run import Run

URL = "s3://strangers/run"


class Bucket:
    """A bucket in memory that lists whatever names it has, as a server of a stranger can."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def list(self, folder: str) -> dict[str, int]:
        inside = {name.removeprefix(f"{folder}/"): data for name, data in self.files.items()}
        return {name: len(data) for name, data in inside.items() if name not in self.files}

    def folders(self, folder: str) -> Sequence[str]:
        return sorted({name.split("/")[0] for name in self.list(folder) if "/" in name})

    def read(self, url: str, start: int = 0, stop: int | None = None) -> bytes:
        if url not in self.files:
            raise FileNotFoundError(url)
        return self.files[url][start:stop]

    def open(self, url: str) -> io.BytesIO:
        return io.BytesIO(self.read(url))

    def checkpoint(self, step: int, files: dict[str, bytes], best: object = None) -> None:
        """Put a whole checkpoint in."""
        files = {"state.json": json.dumps({"step": step, "best_step": best}).encode()} | files
        listed = {
            name: {"bytes": len(data), "blake2b": hashlib.blake2b(data).hexdigest()}
            for name, data in files.items()
        }
        files["files.json"] = json.dumps(listed).encode()
        for name, data in files.items():
            self.files[f"{URL}/checkpoints/step-{step}/{name}"] = data


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    bucket = Bucket()
    monkeypatch.setattr(mirror, "open_storage", lambda *_: bucket)
    return bucket


@pytest.fixture
def restore(
    bucket: Bucket, tmp_path: Path, make_recipe: Callable[..., Recipe]
) -> Callable[[], list[str]]:
    """Fetch the newest checkpoint of the bucket into `deep/run`."""
    recipe = make_recipe(checkpoints={"mirror": URL})
    return mirror.Mirror(Run(tmp_path / "deep" / "run"), recipe, URL, recipe.data.s3).restore


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


NAMES = ["../../../../escaped", "{}/escaped", "a/../../../escaped", "..\\escaped", "files.json/x"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leaves_the_run_folder_is_never_written(
    name: str, bucket: Bucket, restore: Callable[[], list[str]], tmp_path: Path
) -> None:
    bucket.checkpoint(3, {"weights.pt": b"3"})
    bucket.checkpoint(5, {"weights.pt": b"5", name.format(tmp_path): b"x"})
    lines = restore()
    assert "step-5 is broken (files.json cannot be read): resuming from step-3" in lines[0]
    saved = "deep/run/checkpoints"
    assert files_below(tmp_path) == {
        *(f"{saved}/step-3/{file}" for file in ("state.json", "weights.pt", "files.json")),
        *(f"{saved}/latest", "deep/run/recipe.yaml"),
    }


@pytest.mark.parametrize("best", ["1/../../../../escaped", -1, 1.5, True, [3]])
def test_the_best_step_is_a_number(
    best: object, bucket: Bucket, restore: Callable[[], list[str]], tmp_path: Path
) -> None:
    bucket.checkpoint(3, {"weights.pt": b"3"})
    bucket.checkpoint(5, {"weights.pt": b"5"}, best)
    assert "(state.json cannot be read): resuming from step-3" in restore()[0]
    assert Run(tmp_path / "deep" / "run").latest().name == "step-3"


def test_an_empty_list_and_another_step_are_not_whole(
    bucket: Bucket, restore: Callable[[], list[str]]
) -> None:
    bucket.checkpoint(3, {"weights.pt": b"3"})
    bucket.checkpoint(5, {"state.json": b'{"step": 3}'})
    bucket.checkpoint(7, {})
    bucket.files[f"{URL}/checkpoints/step-7/files.json"] = b"{}"
    *faults, line = restore()
    assert [fault.partition(" is broken ")[2].partition(":")[0] for fault in faults] == [
        "(files.json cannot be read)",
        "(state.json is one of step 3)",
    ]
    assert line == f"Downloaded checkpoint step-3 from {URL}"
