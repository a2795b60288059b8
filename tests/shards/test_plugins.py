"""Sources and storage schemes of plugins, one file each."""

import subprocess
import sys
from pathlib import Path

from xmodal.data.manifest import read_manifest

ROOT = Path(__file__).parents[2]
PLUGIN = '''
"""Squares of one colour: none that anybody needs."""

import io
from functools import partial
from typing import ClassVar, Literal

from PIL import Image

from shards.source import Item, SourceConfig, Split
from xmodal.data.storage.config import StorageConfig
from xmodal.data.storage.local import LocalStorage


class SquaresConfig(SourceConfig):
    """Squares of one colour."""

    kind: Literal["squares"] = "squares"
    count: int = 3
    layout: ClassVar[str] = "Nothing to prepare."
    reads: ClassVar[str] = "nothing"
    builds: ClassVar[str] = "read"


class FolderConfig(StorageConfig):
    """Files of this machine, as if they were in a bucket."""

    kind: Literal["folder"] = "folder"
    builds = "FolderStorage"


class FolderStorage(LocalStorage):
    def list(self, folder):
        return super().list(place(folder))

    def identity(self, url):
        return super().identity(place(url))

    def read(self, url, start=0, stop=None):
        return super().read(place(url), start, stop)

    def open(self, url):
        return super().open(place(url))

    def create(self, url):
        return super().create(place(url))

    def write(self, url, data):
        super().write(place(url), data)


def place(url):
    return url.removeprefix("folder:/")


def read(count: int = 3):
    """Find the split train."""
    items = [Item(str(n), partial(draw, n), [f"square {n}"]) for n in range(count)]
    return {"train": lambda: Split(items)}


def draw(number):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 0, 0)).save(file, "PNG")
    return file.getvalue()
'''


def test_a_plugins_source_is_built_into_a_plugins_storage(tmp_path: Path) -> None:
    (tmp_path / "my_squares.py").write_text(PLUGIN)
    words = ["build", "squares", "count=5", "--plugin", "my_squares", "--workers", "1"]
    command = [sys.executable, "-m", "shards", *words, "--to", f"folder:/{tmp_path}/out"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert read_manifest(f"{tmp_path}/out/train").num_samples == 5
