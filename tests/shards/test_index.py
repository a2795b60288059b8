"""Shards from elsewhere get an index that makes them usable, or the tar at fault is named."""

import hashlib
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import webdataset

from xmodal.data.manifest import read_manifest
from xmodal.data.shard_index import read_index, write_index
from xmodal.data.tar import tar_samples

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
        assert read_index(shard.url)[:] == list(tar_samples(shard.url))


def test_the_index_is_made_again_when_shards_change(foreign: Path, run: Run) -> None:
    run("index", foreign)
    (foreign / "00001.tar").unlink()
    run("index", foreign)
    assert read_manifest(foreign).num_samples == 8


def test_what_is_whole_of_a_cut_tar_is_indexed_and_the_cut_named(foreign: Path, run: Run) -> None:
    tar = foreign / "00001.tar"
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])
    done = run("index", foreign)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert line.startswith(f"warning: shard {tar} is truncated (last whole file: ")
    assert line.endswith(": 1 samples before it are indexed")
    assert [shard.num_samples for shard in read_manifest(foreign).shards] == [4, 1, 4]


def test_tars_without_a_sample_are_skipped_and_named(foreign: Path, run: Run) -> None:
    with webdataset.TarWriter(str(foreign / "00003.tar")):
        pass
    (foreign / "00004.tar").write_bytes(b"")
    done = run("index", foreign)
    assert "warning: 1 shards without a sample are skipped: 00003.tar" in done.stderr
    assert "00004.tar is a file of zero bytes" in done.stderr
    assert read_manifest(foreign).num_samples == 12
    for tar in foreign.glob("*.tar"):
        tar.write_bytes(b"")
    assert f"no shard of {foreign} has a whole sample" in run("index", foreign, code=2).stderr


def test_keys_that_come_twice_are_counted_and_named(foreign: Path, run: Run) -> None:
    with webdataset.TarWriter(str(foreign / "00000.tar")) as writer:
        for key in ("a", "b", "a"):
            writer.write({"__key__": key, "txt": "text"})
    assert (
        "1 keys come twice, the later samples count as bad: 00000.tar a"
        in run("index", foreign).stderr
    )
    index = read_index(foreign / "00000.tar")
    assert index.repeats() == {2}


def test_one_bad_tar_of_each_kind_ends_nothing(foreign: Path, run: Run) -> None:
    """Indices are made of what is whole, and every tar is named that is not."""
    good = (foreign / "00000.tar").read_bytes()
    loop = bytearray(tarfile.TarInfo("x.txt").tobuf())
    loop[124:136] = b"\xff" * 10 + b"\xfe\x00"  # 512 below zero
    loop[148:156] = b"%06o\0 " % (256 + sum(loop[:148]) + sum(loop[156:]))
    bad = {
        "loop.tar": bytes(loop) + good,
        "gzip.tar": b"\x1f\x8b" + bytes(600),
        "text.tar": b"text " * 900,
        "after.tar": good + b"garbage",
        "two.tar": good + (foreign / "00001.tar").read_bytes(),
    }
    for name, data in bad.items():
        (foreign / name).write_bytes(data)
    (foreign / "folder.tar").mkdir()
    lines = run("index", foreign).stderr
    assert "gzip.tar is compressed: unpack it to a plain tar (last whole file: none): " in lines
    assert "text.tar is no tar (last whole file: none): it is not indexed" in lines
    assert "loop.tar has a broken header at byte 0 (last whole file: none): it is not in" in lines
    assert "after.tar has 7 bytes after its end, from byte " in lines
    assert "1 archives begin after the end of another" in lines
    names = {Path(one.url).name: one.num_samples for one in read_manifest(foreign).shards}
    assert names == {f"0000{n}.tar": 4 for n in range(3)} | {"after.tar": 4, "two.tar": 8}


def test_digests_are_kept_and_compared_by_check(foreign: Path, run: Run) -> None:
    assert write_index(foreign / "00001.tar").digests.sha256 is None
    run("index", foreign, "--digest")
    shard = read_manifest(foreign).shards[1]
    assert shard.digests.headers
    assert shard.digests.index
    tar = Path(shard.url)
    assert shard.digests.sha256 == hashlib.sha256(tar.read_bytes()).hexdigest()
    data = bytearray(tar.read_bytes())
    at = data.index(b"a dog")
    data[at : at + 5] = b"a cat"  # of one size, and whole
    tar.write_bytes(bytes(data))
    found = run("check", foreign, code=1).stdout
    assert "1  changed since it was indexed" in found
    assert f"{tar.name}: SHA-256 {hashlib.sha256(bytes(data)).hexdigest()}, " in found


def test_compressed_tars_are_named(foreign: Path, run: Run) -> None:
    for tar in foreign.glob("*.tar"):
        tar.rename(f"{tar}.gz")
    line = f"{foreign} has no .tar, but 3 compressed ones (00000.tar.gz): unpack them to plain tars"
    assert line in run("index", foreign, code=2).stderr


def test_a_folder_without_tars_says_where_they_are(foreign: Path, run: Run) -> None:
    done = run("index", foreign.parent, code=2)
    assert f"{foreign.parent} has no .tar: is one of these meant? {foreign}" in done.stderr
    assert "there is no folder" in run("index", foreign / "nowhere", code=2).stderr
