"""`check` finds each kind of damage, counts it by cause and names its shard and key."""

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.check import check_tar
from xmodal.data.shard_index import NO_NAME_OF_INDEX, write_index

Run = Callable[..., subprocess.CompletedProcess[str]]
NO_IMAGE = "no image: expected a member jpg, jpeg, png, webp"
NO_CAPTION = "no caption: expected captions in its json, or a txt"
GOOD = json.dumps({"captions": ["a dog", "an animal"], "image_id": "7", "labels": ["dog"]}).encode()


def write_tar(path: Path, *files: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def causes(tmp_path: Path, encode: Callable[..., bytes]) -> Callable[..., dict[str, int]]:
    """Check a tar of a good sample and one with these files (jpg and json if not given)."""

    def counted(**files: bytes | None) -> dict[str, int]:
        changed: Mapping[str, bytes | None] = {"jpg": encode(), "json": GOOD} | {
            extension.replace("_", "."): data for extension, data in files.items()
        }
        sample = [(f"b.{ext}", data) for ext, data in changed.items() if data is not None]
        tar = write_tar(tmp_path / "s.tar", ("a.jpg", encode()), ("a.json", GOOD), *sample)
        report = check_tar(str(tar))
        assert report.num_samples == 2
        assert report.num_broken == any(not one.startswith("dropped") for one in report.counts)
        assert all(each.startswith("s.tar b") for some in report.examples.values() for each in some)
        return dict(report.counts + report.hints)

    return counted


def captions(*said: object, **more: object) -> bytes:
    return json.dumps({"captions": said, **more}).encode()


def test_good_samples_have_no_fault(causes, encode) -> None:
    assert causes() == {}
    assert causes(jpg=None, png=encode("PNG")) == {}
    assert causes(jpg=None, jpeg=encode()) == {}
    assert causes(jpg=None, webp=encode("WEBP"), cls=b"3") == {}
    assert causes(json=None, txt=b"a dog") == {}
    assert causes(json=None, cls=b"3") == {}
    assert causes(json=b'{"caption": "a dog", "url": null}', txt="ein Hünd".encode()) == {}
    assert causes(json=captions("x" * 10_000)) == {}


def test_broken_images_have_a_cause(causes, encode, monkeypatch) -> None:
    assert causes(jpg=b"") == {"jpg is empty": 1}
    assert causes(jpg=b"<html>404</html>") == {"image does not decode (not an image)": 1}
    assert causes(jpg=encode(size=(300, 300))[:-500]) == {"image does not decode (truncated)": 1}
    assert causes(jpg=None) == {NO_IMAGE: 1}


def test_an_image_under_another_name_is_a_hint(tmp_path: Path, causes, run: Run, encode) -> None:
    hint = {"image with another extension than its content": 1}
    assert causes(jpg=encode("PNG")) == hint
    assert causes(jpg=None, png=encode("WEBP")) == hint
    assert causes(jpg=encode("GIF")) == hint
    said = run("check", tmp_path).stdout
    assert said.endswith(
        "nothing is broken\nread all the same:\n       1  "
        + next(iter(hint))
        + ("\n          s.tar b: jpg, but it is GIF\n")
    )


def test_a_decompression_bomb_is_found_without_exploding(causes) -> None:
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    assert causes(jpg=None, png=bomb.getvalue()) == {
        "image is too large (over 89,478,485 pixels)": 1
    }


def test_broken_captions_have_a_cause(causes) -> None:
    for nothing in (None, b"{}", captions(), b'{"captions": NaN}', b'{"captions": " "}'):
        assert causes(json=nothing) == {NO_CAPTION: 1}
    assert causes(json=None, txt=b"") == {"txt is empty": 1}
    assert causes(json=None, txt=b"\n") == {"caption is empty": 1}
    assert causes(json=None, txt=b"caf\xe9") == {"caption in its txt is not UTF-8": 1}
    assert causes(json=b'{"captions": ["caf\xe9"]}') == {"caption in its json is not UTF-8": 1}
    assert causes(json=b'{"captions": ["\\ud83d"]}') == {"caption has half a surrogate pair": 1}
    assert causes(json=captions("x" * 10_001)) == {"caption is over 10,000 characters": 1}
    assert causes(json=captions({"raw": "a"})) == {"caption is no text (but an object)": 1}


def test_a_part_that_is_dropped_is_counted_and_the_sample_is_whole(causes) -> None:
    assert causes(json=captions("a dog", " \n")) == {"dropped: caption is empty": 1}
    assert causes(json=captions("a dog", 3)) == {"dropped: caption is no text (but a number)": 1}
    assert causes(json=captions("a dog", labels=["dog", None])) == {"dropped: label is missing": 1}
    assert causes(json=captions("a dog", labels="dog")) == {}
    assert causes(json=captions("a dog", labels=[3])) == {}


def test_broken_json_has_a_cause(causes) -> None:
    assert causes(json=b'{"captions": [') == {"json does not parse": 1}
    assert causes(json=b"[" * 100_000) == {"json does not parse": 1}
    assert causes(json=b'["a dog"]') == {"json is not an object": 1}
    assert causes(json=b'{"captions": "a dog", "image_id": 3}') == {}
    wrong = {"image_id is no text or whole number (but an object)": 1}
    assert causes(json=b'{"captions": ["a dog"], "image_id": {"a": 1}}') == wrong
    assert causes(json=captions("a dog", image_id="")) == {}


def test_composed_samples_need_both_images_and_the_modification(causes, encode) -> None:
    record = {"modification": "make it red", "source_id": "1", "target_id": "2"}
    good = {"jpg": None, "source_jpg": encode(), "target_png": encode("PNG")}
    assert causes(**good, json=json.dumps(record).encode()) == {}
    nothing = {f"no {key} in its json": 1 for key in record}
    assert causes(**good, json=b"{}") == nothing
    half = good | {"target_png": None}
    (cause,) = causes(**half, json=json.dumps(record).encode())
    assert cause.startswith("no image: expected a member target.jpg")
    unpublished = {"modification": "make it red", "source_id": "1", "members": ["1", "3"]}
    assert causes(**half, json=json.dumps(unpublished).encode()) == {}
    assert causes(**good, json=json.dumps(unpublished).encode()) == {"no target_id in its json": 1}
    assert causes(**good, json=json.dumps(record | {"source_id": 1}).encode()) == {}
    wrong = json.dumps(record | {"source_id": True}).encode()
    assert causes(**good, json=wrong) == {
        "source_id is no text or whole number (but true or false)": 1
    }
    broken = good | {"source_jpg": b""}
    assert causes(**broken, json=json.dumps(record).encode()) == {"source.jpg is empty": 1}
    features = {
        "jpg": None,
        "source_npy": npy(np.ones(4, "f4")),
        "target_npy": npy(np.ones(4, "f4")),
    }
    assert causes(**features, json=json.dumps(record).encode()) == {}
    nan = features | {"target_npy": npy(np.full(4, np.nan, "f4"))}
    assert causes(**nan, json=json.dumps(record).encode()) == {
        "target.npy has values that are not finite": 1
    }


def npy(array: object, **more: bool) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **more)
    return buffer.getvalue()


def test_features_stand_for_what_they_were_computed_from(causes) -> None:
    image, text = npy(np.ones(4, "f4")), npy(np.ones((2, 3), "f4"))
    nothing_said = b'{"image_id": "7", "captions": []}'
    assert causes(image_npy=image, text_npy=text) == {}
    assert causes(jpg=None, image_npy=image) == {}
    assert causes(jpg=None, image_npy=npy(np.ones((36, 4), "f2")), text_npy=text) == {}
    assert causes(jpg=None, image_npy=image, text_npy=text, json=nothing_said) == {}
    assert causes(text_npy=text, json=None) == {}
    assert causes(jpg=None, image_npy=image, json=nothing_said) == {NO_CAPTION: 1}
    assert causes(jpg=None, text_npy=text) == {NO_IMAGE: 1}


@pytest.mark.parametrize(
    ("broken", "cause"),
    [
        (b"", " is empty"),
        (b"no array", " is no array of numbers"),
        (npy(np.ones((2, 90), "f4"))[:-1], " is no array of numbers"),
        (npy(np.array([[None]]), allow_pickle=True), " is no array of numbers"),
        (npy(np.ones((2, 3), "f4")).replace(b"(2, 3)", b"(2, 9" + b"9" * 12 + b")"), " is no arr"),
        (npy(np.ones((2, 3, 4, 5), "f4")), " has "),
        (npy(np.ones((2, 0), "f4")), " has "),
        (npy(np.float32(1)), " has "),
        (npy(np.array([[1, np.nan]], "f4")), " has values that are not finite"),
        (npy(np.array([[1, np.inf]], "f4")), " has values that are not finite"),
    ],
)
def test_broken_features_have_a_cause(broken: bytes, cause: str, causes) -> None:
    for member in ({"image_npy": broken}, {"text_npy": broken}):
        ((found, count),) = causes(**member).items()
        assert found.startswith(next(iter(member)).replace("_", ".") + cause)
        assert count == 1


@pytest.mark.parametrize("dtype", ["<f2", "<f8", ">f4", "<i8", "|u1"])
def test_features_may_be_numbers_of_any_kind(dtype: str, causes) -> None:
    for order in "CF":
        assert causes(text_npy=npy(np.ones((2, 3), dtype, order))) == {}


def test_features_of_captions_are_one_row_each(causes) -> None:
    flat = npy(np.ones(3, "f4"))
    assert causes(text_npy=flat) == {"text.npy has no row a caption": 1}
    several = npy(np.ones((3, 4), "f4"))
    assert causes(text_npy=several) == {"text.npy has not a row for each caption": 1}


def test_images_of_a_gallery_need_no_caption(causes) -> None:
    assert causes(json=b'{"image_id": "7", "captions": [], "gallery": true}') == {}
    assert causes(json=b'{"image_id": "7", "gallery": true}') == {}
    assert causes(json=b'{"image_id": "7", "captions": [], "gallery": false}') == {NO_CAPTION: 1}
    assert causes(json=captions("", gallery=True)) == {"caption is empty": 1}


def test_keys_that_come_twice_or_leave_the_folder(tmp_path: Path, encode) -> None:
    files = [(f"{key}.{ext}", data) for key in ("a", "b", "a", "../c") for ext, data in
             (("jpg", encode()), ("json", GOOD))]  # fmt: skip
    report = check_tar(str(write_tar(tmp_path / "s.tar", *files)))
    assert report.examples == {
        "key comes twice in its shard": ["s.tar a"],
        "`..` in its path": ["s.tar ../c"],
    }
    assert set(report.counts.values()) == {1}


def test_samples_before_a_cut_are_checked(tmp_path: Path, encode) -> None:
    files = [(f"{n}.{ext}", data) for n in range(4) for ext, data in
             (("jpg", encode() if n != 1 else b""), ("json", GOOD))]  # fmt: skip
    tar = write_tar(tmp_path / "s.tar", *files)
    whole = tar.read_bytes()
    tar.write_bytes(whole[: whole.index(b"3.jpg") + 700])
    report = check_tar(str(tar))
    assert report.counts == {"jpg is empty": 1, "tar cut or broken": 1}
    assert report.num_samples == 2
    assert report.examples["tar cut or broken"] == [
        f"shard {tar} is truncated (last whole file: 2.json)"
    ]


def test_the_command_counts_and_names_what_is_broken(tmp_path: Path, run: Run, encode) -> None:
    for shard in range(2):
        bad = [(f"{shard}{n}.{ext}", data) for n in range(4) for ext, data in
               (("jpg", b""), ("json", GOOD))]  # fmt: skip
        write_tar(
            tmp_path / f"{shard}.tar", *bad, (f"{shard}9.jpg", encode()), (f"{shard}9.txt", b"x")
        )
    run("index", tmp_path)
    done = run("check", tmp_path, "--workers", 2, code=1)
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert lines == [
        f"10 samples in 2 shards of {tmp_path}",
        "8  jpg is empty",
        *("0.tar 00", "0.tar 01", "0.tar 02", "0.tar 03", "1.tar 10", "…"),
        "8 samples are broken",
    ]


def test_an_index_of_another_tar_is_found(tmp_path: Path, run: Run, encode) -> None:
    write_tar(tmp_path / "0.tar", ("a.jpg", encode()), ("a.txt", b"a dog"))
    assert "nothing is broken" in run("check", tmp_path).stdout
    run("index", tmp_path)
    assert "nothing is broken" in run("check", tmp_path).stdout
    write_tar(tmp_path / "0.tar", ("b.jpg", encode()), ("b.txt", b"a dog"))
    done = run("check", tmp_path, code=1)
    assert "1  index wrong\n          0.tar: 0.idx is of another tar" in done.stdout
    write_tar(tmp_path / "1.tar", ("c.jpg", encode()), ("c.txt", b"a cat"))
    (tmp_path / "0.idx").unlink()
    assert "0.tar has no 0.idx" in run("check", tmp_path, code=1).stdout


def test_a_tar_without_samples_is_broken(tmp_path: Path, run: Run) -> None:
    write_tar(tmp_path / "0.tar", ("readme", b"hello"))
    assert "1  no samples" in run("check", tmp_path, code=1).stdout


def test_images_that_come_twice_under_other_ids_are_named(
    tmp_path: Path, run: Run, encode: Callable[..., bytes]
) -> None:
    files = {
        name: data
        for image, colour in enumerate(["red", "blue"])
        for caption in range(5)
        for name, data in (
            (f"{image}_{caption}.jpg", encode(colour=colour)),
            (f"{image}_{caption}.txt", f"{image} {caption}".encode()),
        )
    }
    write_tar(tmp_path / "0.tar", *files.items())
    done = run("check", tmp_path)
    assert "nothing is broken" in done.stdout
    assert "warning: 2 images occur several times under different ids, in 10 samples" in done.stderr
    ids = {f"{name[:3]}.json": f'{{"image_id": {name[0]}}}'.encode() for name in files}
    write_tar(tmp_path / "0.tar", *sorted((files | ids).items()))
    assert "warning" not in run("check", tmp_path).stderr


@pytest.mark.parametrize("made", ["pipe", "sparse"])
def test_an_index_that_would_never_end_is_not_read(made: str, tmp_path: Path, encode) -> None:
    tar = write_tar(tmp_path / "s.tar", ("a.jpg", encode()), ("a.json", GOOD))
    index = tar.with_suffix(".idx")
    if made == "pipe":
        os.mkfifo(index)
    else:
        index.touch()
        os.truncate(index, 2**40)
    fault = {"pipe": "cannot be read: it is no regular file", "sparse": "is larger than its tar"}
    assert check_tar(str(tar)).examples["index wrong"] == [f"s.tar: s.idx {fault[made]}"]


def test_a_name_that_no_index_holds_is_named_and_the_index_right(tmp_path: Path, encode) -> None:
    files = [("a.jpg", encode()), ("a.txt", b"a"), ("b\nc.jpg", encode()), ("b\nc.txt", b"b")]
    tar = write_tar(tmp_path / "s.tar", *files)
    assert write_index(tar).num_samples == 1
    report = check_tar(str(tar))
    assert dict(report.counts) == {NO_NAME_OF_INDEX: 1}
    assert (report.num_samples, report.num_broken) == (2, 1)
