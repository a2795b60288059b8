import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from shards.build import build
from tests.services.proxy import Proxy, cuts, proxy
from tests.services.s3 import Gateway
from tests.shards.conftest import Run, make_flickr8k
from xmodal.data.storage.s3 import S3Storage

pytestmark = pytest.mark.s3


@pytest.fixture(autouse=True)
def _environment(s3: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def bucket(s3: Gateway) -> str:
    return s3.bucket()


@pytest.fixture
def network(s3: Gateway) -> Iterator[Proxy]:
    with proxy(s3.port) as opened:
        yield opened


def contents(s3: Gateway, folder: str) -> dict[str, bytes]:
    storage = S3Storage(endpoint=s3.endpoint)
    return {name: storage.read(f"{folder}/{name}") for name in sorted(storage.list(folder))}


def modified(storage: S3Storage, url: str) -> object:
    bucket, key = url.removeprefix("s3://").split("/", 1)
    return storage._filesystem.call_s3("head_object", Bucket=bucket, Key=key)["LastModified"]


def on_disk(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_bucket_gets_what_a_disk_gets(
    s3: Gateway, bucket: str, flickr8k: Path, tmp_path: Path, run: Run
) -> None:
    (flickr8k / "Flicker8k_Dataset/100_00.jpg").write_bytes(b"")
    words = ("build", "flickr8k", "--from", flickr8k, "--samples-per-shard", 5, "--to")
    made = run(*words, f"{bucket}/flickr8k/")
    run(*words, tmp_path / "to")
    for split in ("train", "val"):
        assert contents(s3, f"{bucket}/flickr8k/{split}") == on_disk(tmp_path / "to" / split)
    assert f"train: 11 samples in 3 shards (0.1 MB) in {bucket}/flickr8k/train" in made.stdout
    assert "skipped: 1 " in made.stdout
    assert run(*words, f"{bucket}/flickr8k").stdout == made.stdout
    says = run(*words, f"{bucket}/flickr8k", "--resize", 20, code=2).stderr
    assert "built with resize None, not 20" in says


def test_parts_make_in_a_bucket_what_one_build_makes_on_a_disk(
    s3: Gateway, bucket: str, flickr8k: Path, tmp_path: Path
) -> None:
    build("flickr8k", tmp_path / "to", flickr8k, samples_per_shard=2)
    folder = f"{bucket}/parts"
    for number in (3, 1, 2):
        assert "shardindex.json" not in contents(s3, f"{folder}/train")
        build("flickr8k", folder, flickr8k, samples_per_shard=2, part=(number, 3))
    for split in ("train", "val"):
        assert contents(s3, f"{folder}/{split}") == on_disk(tmp_path / "to" / split)


def test_indexing_checking_and_showing(
    s3: Gateway, bucket: str, flickr8k: Path, tmp_path: Path, run: Run, monkeypatch
) -> None:
    build("flickr8k", f"{bucket}/mine", flickr8k, splits=["train"], samples_per_shard=4)
    folder, storage = f"{bucket}/mine/train", S3Storage()
    before = contents(s3, folder)
    assert "nothing is broken" in run("check", folder).stdout
    for name in before:
        if not name.endswith(".tar"):
            storage.remove(f"{folder}/{name}")
    assert f"run `python -m shards index {folder}`" in run("show", folder, code=2).stderr
    assert run("index", folder).stdout == f"12 samples in 3 shards of {folder}\n"
    del before["build.json"]
    assert contents(s3, folder) == before
    command = [sys.executable, "-m", "shards", "show", folder, "-n", "5"]
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    assert not subprocess.run(command, cwd=tmp_path, check=True).returncode
    assert Image.open(tmp_path / "contact_sheet.png").width > 500


def test_what_is_broken_in_a_bucket_is_found(
    bucket: str, flickr8k: Path, run: Run, encode: Callable[..., bytes]
) -> None:
    build("flickr8k", f"{bucket}/mine", flickr8k, splits=["train"], samples_per_shard=6)
    folder, storage = f"{bucket}/mine/train", S3Storage()
    tar = storage.read(f"{folder}/train-000001.tar")
    storage.write(f"{folder}/train-000001.tar", tar[: len(tar) // 2])
    assert "tar cut or broken" in run("check", folder, code=1).stdout


@pytest.mark.parametrize("command", ["index", "check", "show"])
def test_what_is_not_there_is_one_line(bucket: str, run: Run, command: str) -> None:
    S3Storage().write(f"{bucket}/some/below/one.tar", b"")
    assert f"there is no folder {bucket}/none" in run(command, f"{bucket}/none", code=2).stderr
    assert "no such bucket" in run(command, "s3://nobodys/mine", code=2).stderr
    if command != "show":
        hint = run(command, f"{bucket}/some", code=2).stderr
        assert f"has no .tar: is one of these meant? {bucket}/some/below" in hint


def test_a_build_without_keys_is_refused_in_one_line(
    bucket: str, flickr8k: Path, run: Run, monkeypatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    done = run("build", "flickr8k", "--from", flickr8k, "--to", bucket, code=2)
    assert done.stderr.startswith(f"error: {bucket}/train: no credentials for ")
    assert done.stderr.count("\n") == 1


def test_a_killed_build_goes_on_to_the_same_bytes(
    s3: Gateway, bucket: str, tmp_path: Path, encode: Callable[..., bytes], run: Run
) -> None:
    flickr8k = make_flickr8k(tmp_path / "flickr8k", encode)
    words = ["build", "flickr8k", "--from", str(flickr8k), "--split", "train",
             "--samples-per-shard", "1", "--workers", "1", "--to"]  # fmt: skip
    run(*words, tmp_path / "whole")
    process = subprocess.Popen([sys.executable, "-m", "shards", *words, bucket])
    storage = S3Storage()

    def finished() -> list[str]:
        return [name for name in storage.list(f"{bucket}/train") if name.endswith(".tar")]

    while len(finished()) < 2:
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1)  # its worker ends by itself
    kept = {name: modified(storage, f"{bucket}/train/{name}") for name in finished()}
    assert "shardindex.json" not in storage.list(f"{bucket}/train")
    run(*words, bucket)
    got, wanted = contents(s3, f"{bucket}/train"), on_disk(tmp_path / "whole/train")
    assert got == wanted
    assert len(kept) < len([name for name in got if name.endswith(".tar")])
    assert {name: modified(storage, f"{bucket}/train/{name}") for name in kept} == kept


def test_a_build_and_a_check_through_cut_connections(
    s3: Gateway, bucket: str, flickr8k: Path, tmp_path: Path, run: Run, network: Proxy, monkeypatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", network.endpoint)
    network.befall(cuts(0, within=30_000))
    words = ("build", "flickr8k", "--from", flickr8k, "--samples-per-shard", 5, "--to")
    run(*words, bucket)
    run(*words, tmp_path / "to")
    assert contents(s3, f"{bucket}/train") == on_disk(tmp_path / "to/train")
    run("check", f"{bucket}/train")
    assert network.num_cut
