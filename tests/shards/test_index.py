"""Shards from elsewhere get an index that makes them usable, or the tar at fault is named."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import webdataset

from xmodal.data.manifest import index_tar, read_manifest

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def foreign(tmp_path: Path, encode: Callable[..., bytes]) -> Path:
    """Three tars as img2dataset writes them."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    for shard in range(3):
        with webdataset.TarWriter(str(folder / f"{shard:05d}.tar")) as writer:
            for number in range(4):
                key = f"{shard:05d}{number:04d}"
                record = {"caption": "a dog", "url": "http://…", "key": key, "status": "success"}
                writer.write({"__key__": key, "jpg": encode(), "txt": "a dog", "json": record})
    return folder


def test_foreign_shards_are_indexed(foreign: Path, run: Run) -> None:
    done = run("index", foreign, "--workers", 2)
    assert f"12 samples in 3 shards of {foreign}" in done.stdout
    assert "index: 3 of 3" in done.stderr
    manifest = read_manifest(foreign)
    assert [Path(shard.url).name for shard in manifest.shards] == [
        *("00000.tar", "00001.tar", "00002.tar")
    ]
    for shard in manifest.shards:
        assert shard.samples() == index_tar(shard.url)


def test_the_index_is_made_again_when_shards_change(foreign: Path, run: Run) -> None:
    run("index", foreign)
    (foreign / "00001.tar").unlink()
    run("index", foreign)
    assert read_manifest(foreign).num_samples == 8


def test_a_cut_tar_is_named(foreign: Path, run: Run) -> None:
    tar = foreign / "00001.tar"
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])
    done = run("index", foreign, code=2)
    assert done.stderr.splitlines()[-1].startswith(f"error: shard {tar} is cut in the middle (last")
    assert not (foreign / "shardindex.json").exists()


def test_an_empty_tar_is_named(foreign: Path, run: Run) -> None:
    with webdataset.TarWriter(str(foreign / "00003.tar")):
        pass
    assert "00003.tar has no samples: remove it" in run("index", foreign, code=2).stderr


def test_a_folder_without_tars_says_where_they_are(foreign: Path, run: Run) -> None:
    done = run("index", foreign.parent, code=2)
    assert f"{foreign.parent} has no .tar: is one of these meant? {foreign}" in done.stderr
    assert "there is no folder" in run("index", foreign / "nowhere", code=2).stderr
