"""Builds of shards by the command: what they hold, what they leave out, and that they resume."""

import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import webdataset

from shards import build as builder
from shards.__main__ import main
from shards.build import build
from shards.check import check
from shards.source import Composed, Item, Split
from xmodal.data.decode import decode_image
from xmodal.data.manifest import read_manifest
from xmodal.errors import UserError

Run = Callable[..., subprocess.CompletedProcess[str]]


def read(folder: Path) -> list[dict]:
    """The samples as webdataset reads them, JSON decoded."""
    urls = [shard.url for shard in read_manifest(folder).shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    return [sample | {"json": json.loads(sample["json"])} for sample in samples]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    return [
        int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()
    ]


def wait_until(happens: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.005)


def start(*words: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "shards", *map(str, words)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command,
        stdout=pipe,
        stderr=pipe,
        text=True,
        start_new_session=True,
        # Where tests run in a shell's background, Ctrl-C is ignored, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )


@pytest.fixture
def many(flickr8k: Path, encode: Callable[..., bytes]) -> Path:
    """The same layout with 90 images that take a while to shrink."""
    names = [f"many_{number:02}.jpg" for number in range(90)]
    big = encode(size=(1800, 1400))
    for name in names:
        (flickr8k / "Flicker8k_Dataset" / name).write_bytes(big)
    (flickr8k / "Flickr_8k.trainImages.txt").write_text("\n".join(names))
    lines = [f"{name}#0\tOne sentence about {name} ." for name in names]
    (flickr8k / "Flickr8k.token.txt").write_text("\n".join(lines))
    return flickr8k


SLOW = ("--split", "train", "--resize", 600, "--samples-per-shard", 5)


def test_every_split_is_built_with_images_as_stored(
    flickr8k: Path, tmp_path: Path, run: Run
) -> None:
    done = run(
        *("build", "flickr8k", "--from", flickr8k, "--to", tmp_path / "to"),
        *("--samples-per-shard", 5, "--workers", 2),
    )
    assert "train: 12 samples in 3 shards" in done.stdout
    assert "val: 3 samples in 1 shards" in done.stdout
    assert "train: 12 of 12" in done.stderr
    names = (flickr8k / "Flickr_8k.trainImages.txt").read_text().split()
    samples = read(tmp_path / "to/train")
    assert [sample["__key__"] for sample in samples] == [f"{number:09d}" for number in range(12)]
    for name, sample in zip(names, samples, strict=True):
        assert sample["jpg"] == (flickr8k / "Flicker8k_Dataset" / name).read_bytes()
        assert sample["json"] == {
            "image_id": Path(name).stem,
            "captions": [f"Sentence {n} about {name} ." for n in range(5)],
            "split": "train",
        }
    files = sorted(path.name for path in (tmp_path / "to/val").iterdir())
    assert files == ["build.json", "shardindex.json", "val-000000.idx", "val-000000.tar"]


def test_what_cannot_be_used_is_counted_by_cause_and_named(
    flickr8k: Path, tmp_path: Path, run: Run, encode: Callable[..., bytes]
) -> None:
    images = flickr8k / "Flicker8k_Dataset"
    (images / "100_00.jpg").unlink()
    (images / "101_01.jpg").write_bytes(b"")
    (images / "102_02.jpg").write_text("<html>Not found</html>")
    (images / "103_03.jpg").write_bytes(encode(size=(200, 200))[:-300])
    (images / "104_04.jpg").write_bytes(encode("PNG"))
    lines = (flickr8k / "Flickr8k.token.txt").read_text().splitlines()
    kept = [line for line in lines if not line.startswith("105_05.jpg")]
    (flickr8k / "Flickr8k.token.txt").write_text("\n".join(kept))
    words = ("build", "flickr8k", "--from", flickr8k, "--to", tmp_path / "to", "--split", "train")
    done = run(*words, "--samples-per-shard", 5)
    assert "train: 7 samples in 3 shards" in done.stdout
    for cause in (
        *(
            "1 missing (100_00)",
            "1 image is empty (101_01)",
            "1 image does not decode (not an image) (102_02)",
        ),
        *("1 image does not decode (truncated) (103_03)", "1 no caption (105_05)"),
    ):
        assert cause in done.stdout
    samples = read(tmp_path / "to/train")
    assert [s["json"]["image_id"] for s in samples] == [
        *("104_04", "106_06", "107_07", "108_08", "109_09", "110_0a", "111_0b"),
    ]
    assert samples[0]["png"] == encode("PNG")
    assert not (tmp_path / "to/val").exists()
    details = json.loads((tmp_path / "to/train/train-000000.skipped.json").read_text())
    assert details[0] == ["100_00", "missing", str(images / "100_00.jpg")]
    # The same again, from what is on disk.
    assert run(*words, "--samples-per-shard", 5).stdout == done.stdout


def test_many_skipped_are_named_in_part(flickr8k: Path, tmp_path: Path, run: Run) -> None:
    for name in (flickr8k / "Flickr_8k.trainImages.txt").read_text().split()[:11]:
        (flickr8k / "Flicker8k_Dataset" / name).unlink()
    done = run("build", "flickr8k", "--from", flickr8k, "--to", tmp_path, "--split", "train")
    assert "11 missing (100_00, 101_01, 102_02, 103_03, 104_04, …)" in done.stdout


def test_a_shard_of_nothing_but_bad_images_is_not_there(
    flickr8k: Path, tmp_path: Path, run: Run
) -> None:
    for number in range(4, 8):
        (flickr8k / "Flicker8k_Dataset" / f"{100 + number}_0{number}.jpg").unlink()
    build = ("build", "flickr8k", "--from", flickr8k, "--to", tmp_path, "--split", "train")
    run(*build, "--samples-per-shard", 4)
    assert len(read(tmp_path / "train")) == 8
    assert not (tmp_path / "train/train-000001.tar").exists()


def test_a_split_without_one_usable_image_is_an_error(
    flickr8k: Path, tmp_path: Path, run: Run
) -> None:
    for image in (flickr8k / "Flicker8k_Dataset").iterdir():
        image.write_bytes(b"")
    done = run("build", "flickr8k", "--from", flickr8k, "--to", tmp_path / "to", code=2)
    assert "no sample of the split train can be used: 12 image is empty (100_00" in done.stderr


def test_a_build_killed_in_the_middle_resumes_to_the_same_bytes(
    many: Path, tmp_path: Path, run: Run
) -> None:
    words = ("build", "flickr8k", "--from", many, *SLOW, "--workers", 2)
    run(*words, "--to", tmp_path / "whole")
    killed = tmp_path / "killed/train"
    process = start(*words, "--to", tmp_path / "killed")
    wait_until(lambda: len(list(killed.glob("*.tar"))) >= 3)
    workers = children_of(process.pid)
    process.kill()
    process.wait()
    finished = {tar: tar.stat().st_mtime_ns for tar in killed.glob("*.tar")}
    assert 3 <= len(finished) < 18
    assert not (killed / "shardindex.json").exists()
    wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))

    run(*words, "--to", tmp_path / "killed")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert {tar: tar.stat().st_mtime_ns for tar in finished} == finished


@pytest.mark.parametrize(
    "lost",
    [
        ("shardindex.json",),
        ("train-000001.tar", "train-000001.idx"),
        ("train-000000.idx",),
        ("train-000000.tar", "train-000002.idx", "shardindex.json"),
    ],
)
def test_whatever_a_kill_leaves_is_completed_to_the_same_bytes(
    lost: tuple[str, ...], flickr8k: Path, tmp_path: Path
) -> None:
    def again() -> None:
        build("flickr8k", tmp_path / "to", flickr8k, splits=["train"], samples_per_shard=5)

    again()
    whole = contents(tmp_path / "to")
    for name in lost:
        (tmp_path / "to/train" / name).unlink()
        (tmp_path / "to/train" / f"{name}.part").write_bytes(b"half")
        if name.endswith(".tar"):  # killed as it wrote what stands beside it
            index = name.replace(".tar", ".idx")
            (tmp_path / "to/train" / f"{index}.{'0' * 32}.part").write_bytes(b"half")
    again()
    for name in lost:
        (tmp_path / "to/train" / f"{name}.part").unlink(missing_ok=True)
    assert contents(tmp_path / "to") == whole


def test_a_finished_build_says_that_it_reads_nothing_again(
    flickr8k: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note = f"note: {tmp_path / 'to/train'} is finished and stays as it is; remove it to build"
    for is_finished in (False, True):
        build("flickr8k", tmp_path / "to", flickr8k, splits=["train"])
        assert (note in capsys.readouterr().err) == is_finished


def test_the_bytes_do_not_depend_on_the_workers(flickr8k: Path, tmp_path: Path) -> None:
    for workers in (1, 3):
        to = tmp_path / str(workers)
        build("flickr8k", to, flickr8k, samples_per_shard=2, workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "3")


def test_a_built_folder_that_is_indexed_again_stays_the_same_data(
    flickr8k: Path, tmp_path: Path, run: Run
) -> None:
    build("flickr8k", tmp_path / "to", flickr8k, splits=["train"], samples_per_shard=5)
    folder = tmp_path / "to" / "train"
    before = contents(folder)
    assert read_manifest(folder).shards[0].digests.headers
    run("index", folder)
    assert contents(folder) == before


def test_parts_make_what_one_build_makes(flickr8k: Path, tmp_path: Path) -> None:
    def make(to: str, part: tuple[int, int]) -> None:
        build("flickr8k", tmp_path / to, flickr8k, samples_per_shard=2, part=part)

    make("whole", (1, 1))
    for number in (3, 1, 2, 3):  # the third is done twice, before and after the rest
        assert not list((tmp_path / "parts").rglob("shardindex.json")) or number == 3
        make("parts", (number, 3))
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_parts_run_at_the_same_time(flickr8k: Path, tmp_path: Path, run: Run) -> None:
    words = ("build", "flickr8k", "--from", flickr8k, "--samples-per-shard", 2)
    run(*words, "--to", tmp_path / "whole")
    each = [start(*words, "--to", tmp_path / "parts", "--part", f"{n}/3") for n in (1, 2, 3)]
    said = [process.communicate(timeout=200) for process in each]
    assert [process.returncode for process in each] == [0, 0, 0], said
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_a_finished_build_is_left_alone(flickr8k: Path, tmp_path: Path, run: Run) -> None:
    words = ("build", "flickr8k", "--from", flickr8k, "--to", tmp_path / "to")
    first = run(*words)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "to").rglob("*")}
    assert run(*words).stdout == first.stdout
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "to").rglob("*")} == times


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (("--resize", 20), "built with resize None, not 20"),
        (("--samples-per-shard", 7), "built with samples_per_shard 1000, not 7"),
    ],
)
def test_a_folder_built_otherwise_is_refused(
    other: tuple, says: str, flickr8k: Path, tmp_path: Path, run: Run
) -> None:
    words = ("build", "flickr8k", "--from", flickr8k, "--to", tmp_path / "to")
    run(*words)
    before = contents(tmp_path / "to")
    assert says in run(*words, *other, code=2).stderr
    assert contents(tmp_path / "to") == before


def test_a_folder_begun_from_other_captions_is_refused(
    flickr8k: Path, tmp_path: Path, run: Run
) -> None:
    words = ("build", "flickr8k", "--from", flickr8k, "--to", tmp_path / "to")
    run(*words)
    (tmp_path / "to/train/shardindex.json").unlink()
    tokens = flickr8k / "Flickr8k.token.txt"
    tokens.write_text(tokens.read_text().replace("Sentence 3", "Phrase 3"))
    assert "was started from other samples" in run(*words, code=2).stderr


def build_json(folder: Path) -> dict:
    return json.loads((folder / "build.json").read_text())


def test_a_build_that_failed_gives_way_to_the_corrected_command(
    flickr8k: Path, tmp_path: Path
) -> None:
    images, elsewhere = flickr8k / "Flicker8k_Dataset", tmp_path / "elsewhere"
    images.rename(elsewhere)
    images.mkdir()
    train = {"splits": ["train"], "samples_per_shard": 5}
    with pytest.raises(UserError, match=r"12 missing .*; all are listed in \S*train/\*.skipped"):
        build("flickr8k", tmp_path / "to", flickr8k, **train)
    assert len(list((tmp_path / "to/train").glob("*.skipped.json"))) == 3
    images.rmdir()
    elsewhere.rename(images)
    build("flickr8k", tmp_path / "to", flickr8k, splits=["train"], resize=20)
    assert build_json(tmp_path / "to/train")["resize"] == 20
    # Nothing is left of what the first build skipped.
    build("flickr8k", tmp_path / "new", flickr8k, splits=["train"], resize=20)
    assert contents(tmp_path / "to") == contents(tmp_path / "new")


def test_the_plan_of_a_killed_build_that_wrote_nothing_is_replaced(
    flickr8k: Path, tmp_path: Path
) -> None:
    build("flickr8k", tmp_path / "to", flickr8k, splits=["train"])
    folder = tmp_path / "to/train"
    for path in folder.iterdir():
        if path.name != "build.json":
            path.unlink()
    with (folder / "build.json").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another build is writing"):
            build("flickr8k", tmp_path / "to", flickr8k, splits=["train"], resize=20)
    assert build_json(folder)["resize"] is None
    build("flickr8k", tmp_path / "to", flickr8k, splits=["train"], resize=20)
    assert build_json(folder)["resize"] == 20


def test_lists_of_what_was_skipped_go_when_the_shard_is_written(
    flickr8k: Path, tmp_path: Path, capsys
) -> None:
    image = flickr8k / "Flicker8k_Dataset/100_00.jpg"
    data = image.read_bytes()
    image.unlink()
    build("flickr8k", tmp_path, flickr8k, splits=["train"])
    image.write_bytes(data)
    for name in ("train-000000.tar", "train-000000.idx", "shardindex.json"):
        (tmp_path / "train" / name).unlink()
    assert "skipped: 1 missing" in capsys.readouterr().out
    build("flickr8k", tmp_path, flickr8k, splits=["train"])
    assert "missing" not in capsys.readouterr().out
    assert read_manifest(tmp_path / "train").num_samples == 12


@pytest.mark.parametrize("kind", ["fifo", "device", "directory", "sparse"])
def test_only_regular_files_of_bounded_size_are_read(
    kind: str, flickr8k: Path, tmp_path: Path, capsys
) -> None:
    image = flickr8k / "Flicker8k_Dataset/100_00.jpg"
    image.unlink()
    if kind == "fifo":
        os.mkfifo(image)
    elif kind == "device":
        image.symlink_to("/dev/zero")
    elif kind == "directory":
        image.mkdir()
    else:
        with image.open("wb") as file:
            file.truncate(2**29)
    build("flickr8k", tmp_path, flickr8k, splits=["train"])
    cause = "file over 268,435,456 bytes" if kind == "sparse" else "not a regular file"
    assert f"skipped: 1 {cause} (100_00)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("build", "flickr8k", "--to", "", "--from", "{data}/no"), "--to is empty"),
        (("build", "flickr8k", "--to", "  ", "--from", "{data}/no"), "--to is empty"),
        (("build", "flickr8k", "--to", "/", "--from", "{data}/no"), "--to / is the root of"),
        (("build", "flickr8k", "--to", "//../", "--from", "{data}/no"), "is the root of the file"),
        (("build", "flickr8k", "--to", "s3://", "--from", "{data}"), "s3:// names no bucket"),
        (("build", "flickr8k", "--to", "ftp://x/y", "--from", "{data}"), "ftp:// is not supported"),
        (("build", "flickr8k", "--to", "{data}/Flickr8k.token.txt/x", "--from", "{data}"),
         "Flickr8k.token.txt is not a folder"),
        (("build", "flickr8k", "--to", "{data}/to", "--from", ""), "--from is empty"),
        (("build", "flickr8k", "--to", "{data}/to", "--from", " "), "--from is empty"),
        (("build", "flickr8k", "--to", "{data}/to", "--from", "{data}/x.tar.gz"),
         "x.tar.gz is an archive: unpack it"),
        (("build", "flickr8k", "--to", "{data}/to", "--from", "{data}/Flickr8k.token.txt"),
         "Flickr8k.token.txt is not a folder: flickr8k wants the folder"),
        (("index", ""), "the folder is empty"),
        (("check", ""), "the folder is empty"),
        (("show", " "), "the folder is empty"),
        (("show", "{data}", "--to", ""), "--to '': name a file"),
    ],
)  # fmt: skip
def test_an_empty_path_is_no_path(
    words: tuple[str, ...], says: str, flickr8k: Path, capsys
) -> None:
    (flickr8k / "x.tar.gz").write_bytes(b"")
    before = contents(flickr8k)
    line = error_of(*(word.format(data=flickr8k) for word in words), capsys=capsys)
    assert says in line
    assert contents(flickr8k) == before


def error_of(*words: str, capsys) -> str:
    """The line that the command prints, run in this process."""
    with mock.patch.object(sys, "argv", ["shards", *words]), pytest.raises(UserError) as caught:
        main()
    assert "\n" not in str(caught.value)
    assert not capsys.readouterr().out
    return str(caught.value)


def test_samples_are_counted_as_they_are_written(
    flickr8k: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(builder, "progress", lambda *_: nullcontext(seen.append))
    build("flickr8k", tmp_path, flickr8k, splits=["train"])
    assert sum(seen) == 12


def test_foreign_shards_are_never_touched(flickr8k: Path, tmp_path: Path, run: Run) -> None:
    words = ("build", "flickr8k", "--from", flickr8k, "--to", tmp_path / "to")
    mine = tmp_path / "to/train/train-000000.tar"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    assert f"{mine} is not from a build" in run(*words, code=2).stderr
    assert contents(tmp_path / "to") == {"train/train-000000.tar": b"mine"}
    mine.unlink()
    run(*words)
    (mine.parent / "shardindex.json").unlink()
    (mine.parent / "mine.tar").write_bytes(b"mine")
    assert "mine.tar is not a shard of this build" in run(*words, code=2).stderr


def test_two_builds_do_not_write_one_folder(flickr8k: Path, tmp_path: Path, run: Run) -> None:
    words = ("build", "flickr8k", "--from", flickr8k, "--to", tmp_path / "to", "--split", "train")
    run(*words)
    (tmp_path / "to/train/shardindex.json").unlink()
    with (tmp_path / "to/train/build.json").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "another build is writing" in run(*words, code=2).stderr
    run(*words)


def test_ctrl_c_ends_a_build_at_once(many: Path, tmp_path: Path) -> None:
    words = ("build", "flickr8k", "--from", many, "--to", tmp_path / "to", *SLOW)
    process = start(*words, "--workers", 1)
    wait_until(lambda: list((tmp_path / "to/train").glob("*.tar")))
    workers = children_of(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 130
    assert "Traceback" not in errors
    wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))


def test_a_killed_worker_is_explained(many: Path, tmp_path: Path) -> None:
    process = start(
        "build", "flickr8k", "--from", many, "--to", tmp_path / "to", *SLOW, "--workers", 1
    )
    wait_until(lambda: list((tmp_path / "to/train").glob("*.tar")))
    for worker in children_of(process.pid):
        if "spawn_main" in Path(f"/proc/{worker}/cmdline").read_text():
            os.kill(worker, signal.SIGKILL)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 2
    assert "a worker process was killed" in errors
    assert "Traceback" not in errors


def test_resized_images_are_smaller_and_small_ones_kept(
    flickr8k: Path, tmp_path: Path, encode: Callable[..., bytes]
) -> None:
    images = flickr8k / "Flicker8k_Dataset"
    (images / "100_00.jpg").write_bytes(encode(size=(300, 200)))
    build("flickr8k", tmp_path / "to", flickr8k, splits=["train"], resize=100)
    samples = read(tmp_path / "to/train")
    assert decode_image(samples[0]["jpg"]).shape == (100, 150, 3)
    assert samples[1]["jpg"] == (images / "101_01.jpg").read_bytes()


def test_a_generator_is_built_with_its_options_and_relevance(tmp_path: Path, run: Run) -> None:
    run(
        *("build", "scenes", "--to", tmp_path, "--split", "val", "--split", "composed_val"),
        *("val=20", "composed_val=10", "--seed", 7),
    )
    samples = read(tmp_path / "val")
    manifest = read_manifest(tmp_path / "val")
    assert len(samples) == 20
    assert manifest.relevance is not None
    for sample in samples:
        said = sample["json"]
        relevant = manifest.relevance[said["image_id"]]
        assert len(relevant) == len(said["captions"])
        assert all(said["image_id"] in images for images in relevant)
    composed = read(tmp_path / "composed_val")
    assert len(composed) == 10
    assert {"source.jpg", "target.jpg", "json"} <= set(composed[0])
    assert {"modification", "source_id", "target_id"} <= set(composed[0]["json"])
    assert json.loads((tmp_path / "val/build.json").read_text())["options"]["seed"] == 7


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("nothing --to {to}", "unknown source 'nothing'; the sources are: aro, cirr, coco"),
        ("flickr8k --to {to}", "--from is missing"),
        ("flickr8k --to {to} --from {to}/nowhere", "no such file or folder"),
        (
            "flickr8k --to {to} --from {data} --split dev",
            "has no split 'dev' in {data}, but train, val; `python -m shards",
        ),
        ("flickr8k --to {to} --from {data} --seed 3", "unknown option seed of flickr8k"),
        (
            "flickr8k --to {to} --from {data} n=3",
            "unknown option n of flickr8k; its options are: translations",
        ),
        (
            "flickr8k --to {data}/Flickr8k.token.txt --from {data}",
            "Flickr8k.token.txt is not a folder",
        ),
        ("scenes --to {to} --from {data}", "scenes is generated and reads no folder"),
        ("scenes --to {to} val=many", "val=many: val must be of type int"),
        ("scenes --to {to} v=3", "unknown option v of scenes"),
        ("scenes --to {to} val=3 train", "unrecognized arguments: train"),
        (
            "scenes --to {to} --workers 0",
            "error: argument --workers: '0' is not a whole number of 1 or more; see: python -m",
        ),
        ("scenes --to {to} --part 3/2", "error: argument --part: '3/2' is not I/N, such as 2/16;"),
        ("scenes", "error: the following arguments are required: --to; see: python -m shards b"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_made(
    words: str, says: str, flickr8k: Path, tmp_path: Path, run: Run
) -> None:
    done = run("build", *words.format(to=tmp_path / "to", data=flickr8k).split(), code=2)
    assert says.format(data=flickr8k) in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "to").exists()


def test_the_python_function_raises_what_the_command_prints(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--from is missing"):
        build("coco", tmp_path)


# -- what sources may give, beside images with captions --


@pytest.fixture
def build_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Split], Path]:
    """Build the split `some` of a source that gives just this; check finds nothing broken in it."""

    def built(split: Split) -> Path:
        source = SimpleNamespace(defaults={}, read=lambda *_: {"some": lambda: split})
        monkeypatch.setattr(builder, "find_source", {"one": source}.get)
        folder = build("one", tmp_path / "to", samples_per_shard=2)["some"]
        assert check(folder, workers=1) == 0
        return Path(folder)

    return built


@pytest.fixture
def picture(tmp_path: Path, encode: Callable[..., bytes]) -> Path:
    (tmp_path / "picture.jpg").write_bytes(encode())
    return tmp_path / "picture.jpg"


def test_features_are_stored_in_place_of_what_they_were_computed_from_or_beside(
    build_split, picture: Path
) -> None:
    image = np.arange(4, dtype=">f8")
    regions = np.arange(6, dtype="f4").reshape(2, 3)
    texts = np.asfortranarray(np.arange(4.0).reshape(2, 2))
    folder = build_split(
        Split(
            [
                Item("a", None, image_features=image, text_features=texts),
                Item("b", None, ["a dog"], ["dog"], image_features=regions),
                Item("c", picture, ["a dog", "an animal"], text_features=texts),
            ]
        )
    )
    a, b, c = read(folder)
    assert a["json"] == {"image_id": "a", "captions": [], "split": "some"}
    assert [sorted(key for key in each if key[0] != "_") for each in (a, b, c)] == [
        ["image.npy", "json", "text.npy"],
        ["image.npy", "json"],
        ["jpg", "json", "text.npy"],
    ]
    for stored, given in (
        *((a["image.npy"], image), (a["text.npy"], texts)),
        *((b["image.npy"], regions), (c["text.npy"], texts)),
    ):
        # The bytes that numpy writes for float32, little endian, row after row.
        plain = io.BytesIO()
        np.save(plain, given.astype("<f4", order="C"))
        assert stored == plain.getvalue()


def test_features_that_are_no_numbers_are_skipped(build_split, capsys) -> None:
    good = np.ones(2)
    items = [
        Item(name, None, ["a dog"], image_features=features)
        for name, features in {"a": good, "b": good * np.nan, "c": good * 1e300, "d": good}.items()
    ]
    assert [each["json"]["image_id"] for each in read(build_split(Split(items)))] == ["a", "d"]
    assert "skipped: 2 features: not finite (b, c)" in capsys.readouterr().out


def test_a_build_goes_on_only_with_the_features_it_began_with(build_split) -> None:
    def split(number: float) -> Split:
        return Split([Item("a", None, ["a dog"], image_features=np.full(2, number))])

    (build_split(split(1)) / "shardindex.json").unlink()
    with pytest.raises(UserError, match="was started from other samples"):
        build_split(split(2))
    build_split(split(1))


def test_what_the_source_leaves_out_is_counted_with_the_rest(
    build_split, picture: Path, tmp_path: Path, capsys
) -> None:
    items = [Item("a", picture, ["a dog"]), Item("b", tmp_path / "no", ["a cat"])]
    skipped = [("a", "duplicate", "line 7"), ("c", "bad row", "line 8"), ("d", "bad row", "")]
    relevance = {"a": [["a", "b"]], "b": [["b"]]}
    folder = build_split(Split(items, relevance, skipped))
    said = "skipped: 1 missing (b); 1 duplicate (a); 2 bad row (c, d)"
    assert said in capsys.readouterr().out
    assert json.loads((folder / "source.skipped.json").read_text()) == [list(e) for e in skipped]
    # A duplicate has the name of what is kept, and takes nothing with it.
    assert read_manifest(folder).relevance == {"a": [["a"]]}
    build_split(Split(items, relevance, skipped))
    assert said in capsys.readouterr().out


def test_a_split_that_the_source_skipped_as_a_whole_says_why(build_split) -> None:
    with pytest.raises(UserError, match=r"no samples for the split some; .*bad row \(c line 8\)"):
        build_split(Split([], skipped=[("c", "bad row", "line 8")]))


def test_images_of_a_gallery_may_have_no_captions(build_split, picture: Path) -> None:
    items = [Item("a", picture), Item("b", picture, ["a dog"])]
    a, b = read(build_split(Split(items, gallery=True)))
    assert a["json"] == {"image_id": "a", "captions": [], "split": "some", "gallery": True}
    assert b["json"]["captions"] == ["a dog"]


def test_a_caption_that_cannot_be_used_costs_itself_alone(
    build_split, picture: Path, capsys
) -> None:
    texts = np.arange(6.0).reshape(3, 2)
    captions = ["a dog", " ", "a pup"]
    items = [
        Item("a", picture),
        Item("b", picture, ["a dog"]),
        Item("c", picture, captions, text_features=texts),
        Item("d", picture, ["", "x" * 10_001, "\ud800"]),
    ]
    relevance = {"b": [["b", "c"]], "c": [["b", "c"], ["x"], ["c"]]}
    b, c = read(folder := build_split(Split(items, relevance)))
    assert (b["json"]["captions"], c["json"]["captions"]) == (["a dog"], ["a dog", "a pup"])
    assert np.load(io.BytesIO(c["text.npy"])).tolist() == [[0.0, 1.0], [4.0, 5.0]]
    assert read_manifest(folder).relevance == {"b": [["b", "c"]], "c": [["b", "c"], ["c"]]}
    assert (
        "skipped: 2 no caption (a, d); 2 caption is empty (c, d); "
        "1 caption is over 10,000 characters (d); 1 caption has half a surrogate pair (d)"
    ) in capsys.readouterr().out


def test_details_of_a_composition_are_in_its_record(build_split, picture: Path) -> None:
    details = {"members": ["s", "t"], "category": "dress"}
    folder = build_split(Split([Composed("s", picture, "red", "t", picture, details)]))
    assert read(folder)[0]["json"] == {
        **details,
        "modification": "red",
        "source_id": "s",
        "target_id": "t",
        "split": "some",
    }
