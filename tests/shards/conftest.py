"""What the tests of shards share: the command, run as a user runs it, and images to feed it."""

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run() -> Run:
    """Run `python -m shards` with these words and check its exit code."""

    def run_shards(*words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "shards", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run_shards


@pytest.fixture
def encode() -> Callable[..., bytes]:
    """The bytes of an image with a gradient that no two colours share."""

    def encoded(kind: str = "JPEG", size: tuple[int, int] = (40, 30), colour: str = "red") -> bytes:
        image = Image.linear_gradient("L").resize(size).convert("RGB")
        image = Image.blend(image, Image.new("RGB", size, colour), 0.5)
        buffer = io.BytesIO()
        image.save(buffer, kind)
        return buffer.getvalue()

    return encoded


@pytest.fixture
def flickr8k(tmp_path: Path, encode: Callable[..., bytes]) -> Path:
    """Flickr8k's published layout: twelve images to train on, three to validate."""
    return make_flickr8k(tmp_path / "flickr8k", encode)


def make_flickr8k(root: Path, encode: Callable[..., bytes]) -> Path:
    images = root / "Flicker8k_Dataset"
    images.mkdir(parents=True)
    names = [f"{100 + number}_{number:02x}.jpg" for number in range(15)]
    for number, name in enumerate(names):
        (images / name).write_bytes(
            encode(size=(40 + number, 30), colour=f"hsl({number * 20},99%,50%)")
        )
    lines = [f"{name}#{n}\tSentence {n} about {name} ." for name in names for n in range(5)]
    # The published file names an image that is not in the folder.
    lines += [f"2258277193_586949ec62.jpg.1#{n}\tSome people ." for n in range(5)]
    (root / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    (root / "Flickr_8k.trainImages.txt").write_text("\n".join(names[:12]) + "\n")
    (root / "Flickr_8k.devImages.txt").write_text("\n".join(names[12:]) + "\n")
    return root
