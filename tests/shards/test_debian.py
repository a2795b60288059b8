"""The real Debian packages of Open Clip Art, Tux Paint and the emoji font, whole."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from xmodal.data.manifest import read_manifest

Run = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def unpacked(request: pytest.FixtureRequest) -> Callable[..., Path]:
    """Download Debian packages and unpack them, once, into pytest's cache."""

    def unpack(*packages: str) -> Path:
        folder = request.config.cache.mkdir("debian")
        for package in packages:
            if not (folder / f"{package}.unpacked").exists():
                _unpack(package, folder)
                (folder / f"{package}.unpacked").touch()
        return folder

    return unpack


def _unpack(package: str, folder: Path) -> None:
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        _lacks("no apt-get and dpkg here to get the Debian package with")
    got = subprocess.run(
        ["apt-get", "download", package], cwd=folder, capture_output=True, text=True
    )
    if got.returncode:
        _lacks(f"apt-get download {package}: {got.stderr.strip()[-200:]}")
    for deb in folder.glob(f"{package}_*.deb"):
        subprocess.run(["dpkg", "-x", deb, folder], check=True)
        deb.unlink()


def _lacks(what: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


def build_and_check(source: str, root: Path, to: Path, run: Run) -> dict[str, int]:
    run("build", source, "--from", root, "--to", to, "--resize", 128)
    for split in ("train", "val", "test"):
        assert "nothing is broken" in run("check", to / split).stdout
    return {split: read_manifest(to / split).num_samples for split in ("train", "val", "test")}


def test_openclipart(unpacked: Callable[..., Path], tmp_path: Path, run: Run) -> None:
    sizes = build_and_check(
        "openclipart", unpacked("openclipart-png", "openclipart-svg"), tmp_path, run
    )
    assert 3500 < sum(sizes.values()) < 4000
    assert sizes["train"] > 7 * sizes["val"]


def test_tuxpaint(unpacked: Callable[..., Path], tmp_path: Path, run: Run) -> None:
    sizes = build_and_check("tuxpaint", unpacked("tuxpaint-stamps-default"), tmp_path, run)
    assert 500 < sum(sizes.values()) < 600


def test_emoji(unpacked: Callable[..., Path], tmp_path: Path, run: Run) -> None:
    root = unpacked("fonts-noto-color-emoji")
    if not (root / "package").exists():
        _unpack_npm("emojibase-data@17.0.0", root)
    sizes = build_and_check("emoji", root, tmp_path, run)
    assert 3700 < sum(sizes.values()) < 4000
    for split in ("composed_train", "composed_val", "composed_test", "composed_test_gallery"):
        assert "nothing is broken" in run("check", tmp_path / split).stdout
    queries = sum(
        read_manifest(tmp_path / f"composed_{split}").num_samples
        for split in ("train", "val", "test")
    )
    assert 5000 < queries < 5500


def _unpack_npm(package: str, folder: Path) -> None:
    if not shutil.which("npm"):
        _lacks("no npm here to get the names of emoji with")
    got = subprocess.run(["npm", "pack", package], cwd=folder, capture_output=True, text=True)
    if got.returncode:
        _lacks(f"npm pack {package}: {got.stderr.strip()[-200:]}")
    subprocess.run(["tar", "-xzf", got.stdout.strip()], cwd=folder, check=True)
