"""The real Debian packages of Open Clip Art and Tux Paint, whole."""

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
