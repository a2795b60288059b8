"""Samples are read by number; what is wrong with one is said, and files do not stay open."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.shard_sets import Members, described, encode, numbered, plain, write_shards
from xmodal.data.decode import BadSample
from xmodal.data.samples import SampleReader, hash_id
from xmodal.errors import UserError

PNG = encode(plain(7))


@pytest.fixture
def reader_of(tmp_path: Path) -> Callable[..., SampleReader]:
    """A reader of one shard with these samples."""
    return lambda samples: SampleReader(write_shards(tmp_path / "set", [samples]))


def test_samples_are_numbered_through_the_shards(tmp_path: Path) -> None:
    samples = list(numbered(7).items())
    shards = [dict(samples[:3]), dict(samples[3:4]), dict(samples[4:])]
    reader = SampleReader(write_shards(tmp_path, shards))
    assert len(reader) == 7
    assert [reader.locate(number)[1].key for number in range(7)] == [key for key, _ in samples]
    assert [reader.captions(number)[0][0] for number in range(7)] == [f"{n} 0" for n in range(7)]
    assert [reader.image(number) for number in range(7)] == [s["png"] for _, s in samples]


def test_a_webdataset_of_img2dataset_is_read(reader_of: Callable[..., SampleReader]) -> None:
    reader = reader_of(
        {
            "a": {"jpg": PNG, "txt": "  a café \n".encode(), "json": b'{"caption": "x", "url": 1}'},
            "b": {"jpg": PNG, "txt": b"only text"},
        }
    )
    assert reader.captions(0) == (["a café"], reader.captions(0)[1])
    assert reader.captions(1)[0] == ["only text"]
    assert reader.captions(0)[1] != reader.captions(1)[1]


@pytest.mark.parametrize(
    ("image_id", "same"), [({"image_id": 3}, True), ({"image_id": "x"}, True), ({}, False)]
)
def test_equal_image_ids_are_one_image_and_missing_ones_are_none(
    reader_of: Callable[..., SampleReader], image_id: dict, same: bool
) -> None:
    reader = reader_of(
        {key: {"png": PNG, "json": described(["c"], **image_id)} for key in ("a", "b")}
    )
    assert (reader.captions(0)[1] == reader.captions(1)[1]) is same


def test_an_image_id_of_null_is_none(reader_of: Callable[..., SampleReader]) -> None:
    reader = reader_of({key: {"json": described(["c"], image_id=None)} for key in ("a", "b")})
    assert reader.captions(0)[1] != reader.captions(1)[1]


@pytest.mark.parametrize(
    ("members", "cause"),
    [
        ({"png": PNG}, "no caption: expected captions in its json, or a txt"),
        ({"json": b"{}"}, "no caption"),
        ({"json": b""}, "json is empty"),
        ({"json": b"{"}, "json does not parse"),
        ({"json": b"[" * 100_000}, "json does not parse"),
        ({"json": b'["captions"]'}, "json is not an object"),
        ({"json": b'{"captions": ["\xe9"]}'}, "caption in its json is not UTF-8 (byte 15)"),
        ({"json": described("a string")}, "captions in its json are not a list of strings"),
        ({"json": described([1])}, "captions in its json are not a list of strings"),
        ({"json": described([])}, "caption is empty"),
        ({"json": described([" ", ""])}, "caption is empty"),
        ({"json": b'{"captions": ["\\ud83d"]}'}, "caption in its json has half a surrogate pair"),
        ({"txt": b""}, "txt is empty"),
        ({"txt": b" \n"}, "caption is empty"),
        ({"txt": b"caf\xe9"}, "caption in its txt is not UTF-8 (byte 3)"),
    ],
)
def test_a_caption_that_cannot_be_used_says_why(
    reader_of: Callable[..., SampleReader], members: Members, cause: str
) -> None:
    with pytest.raises(BadSample) as caught:
        reader_of({"k": members}).captions(0)
    assert str(caught.value).startswith(cause)


def test_empty_captions_among_others_are_left_out(reader_of: Callable[..., SampleReader]) -> None:
    reader = reader_of({"k": {"json": described(["", "one", " ", "two"])}})
    assert reader.captions(0)[0] == ["one", "two"]


def test_an_image_that_is_missing_or_empty_says_so(
    reader_of: Callable[..., SampleReader],
) -> None:
    reader = reader_of({"a": {"txt": b"x"}, "b": {"jpg": b""}, "c": {"source.jpg": PNG}})
    for number, cause in enumerate(["no image: expected", "jpg is empty", "no image: expected"]):
        with pytest.raises(BadSample, match=cause):
            reader.image(number)


def test_a_member_that_reaches_past_the_end_is_cut_short(tmp_path: Path) -> None:
    manifest = write_shards(tmp_path, [numbered(3)])
    reader = SampleReader(manifest)
    offset, size = reader.locate(2)[1].members["json"]
    for end in (offset + size - 1, offset):
        os.truncate(manifest.shards[0].url, end)
        with pytest.raises(BadSample, match="json is cut short"):
            reader.captions(2)
    assert reader.captions(1)


def test_a_shard_that_goes_away_is_named(tmp_path: Path) -> None:
    manifest = write_shards(tmp_path, [numbered(1)])
    reader = SampleReader(manifest)
    Path(manifest.shards[0].url).unlink()
    with pytest.raises(UserError, match=r"set-000000\.tar cannot be read: No such file"):
        reader.image(0)


def open_tars() -> int:
    """Number of tars that this process has open."""
    targets = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            targets.append(descriptor.readlink())
        except FileNotFoundError:
            continue  # the one that lists the folder
    return sum(target.suffix == ".tar" for target in targets)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc to count open files in")
@pytest.mark.filterwarnings("error")
def test_many_shards_leave_few_files_open_and_none_behind(tmp_path: Path) -> None:
    samples = list(numbered(150).items())
    reader = SampleReader(write_shards(tmp_path, [dict([sample]) for sample in samples]))
    before = open_tars()
    for number in [*range(150), *range(149, -1, -1), 0, 149, 75]:
        assert reader.image(number) == samples[number][1]["png"]
        assert open_tars() - before <= 64
    assert open_tars() - before == 64
    del reader
    assert open_tars() == before


def test_ids_are_the_same_on_every_machine() -> None:
    assert hash_id("COCO_val2014_000000000042") == -3428200816886547024
    assert len({hash_id(f"{number}") for number in range(1000)}) == 1000
    assert hash_id("\udce9") != hash_id("\udcea")  # a key in a tar need not be UTF-8


def test_features_are_read_where_they_are_cached(reader_of: Callable[..., SampleReader]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(4, dtype=np.float32))
    reader = reader_of({"a": {"image.npy": buffer.getvalue()}, "b": {"txt": b"x"}})
    assert reader.features(0, "image").tolist() == [0, 1, 2, 3]
    assert reader.features(0, "text") is None
    assert reader.features(1, "image") is None
