"""Records of images and queries: what a search shows of them, and where their bytes lie."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.shard_sets import Members, described, encode, plain, write_shards
from tests.training_sets import TOKENIZER, npy
from xmodal.data.composed import ComposedSet
from xmodal.data.decode import BadSample
from xmodal.data.image_records import image_record, query_record
from xmodal.data.reader import SampleReader
from xmodal.data.samples import RawSample
from xmodal.data.transforms import ImageTransform


def samples_of(folder: Path, samples: dict[str, Members]) -> list[RawSample]:
    """Return samples as they are read from a shard."""
    return SampleReader(write_shards(folder, [samples])).load(range(len(samples)))


def test_a_record_has_what_the_json_and_the_image_say(tmp_path: Path) -> None:
    pixels = plain(3, (20, 30))
    more: dict[str, Any] = {"url": "https://x/a.jpg", "uid": "ab", "image_id": 7, "labels": ["l"]}
    samples = {"a": {"png": encode(pixels), "json": described(["one", "other"], **more)}}
    (sample,) = samples_of(tmp_path, samples)
    record = image_record(sample)
    offset, size = record.pop("offset"), record.pop("size")
    assert record == {
        "key": "a",
        "caption": "one",
        "url": "https://x/a.jpg",
        "width": 30,
        "height": 20,
        "labels": ["l"],
        "shard": Path(sample.shard).name,
        "image_id": "7",
        "uid": "ab",
    }
    assert Path(sample.shard).read_bytes()[offset : offset + size] == samples["a"]["png"]


def test_sides_are_those_of_the_upright_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    made = io.BytesIO()
    Image.fromarray(plain(1, (20, 30))).save(made, "JPEG", exif=exif)
    (sample,) = samples_of(tmp_path, {"a": {"jpg": made.getvalue()}})
    record = image_record(sample)
    assert (record["width"], record["height"]) == (20, 30)


@pytest.mark.parametrize("value", [5, ["x"], None, {"a": 1}])
def test_what_a_sample_lacks_is_null(value: object) -> None:
    files = {"image.npy": npy(np.zeros(3)), "json": described([], url=value, uid=value)}
    record = image_record(RawSample("/data/s.tar", "a\udcff", files))
    named = {"key": "a\\udcff", "shard": "s.tar", "image_id": "s.tar/a\\udcff", "labels": []}
    assert {name: one for name, one in record.items() if one is not None} == named


def test_no_image_is_a_bad_sample() -> None:
    with pytest.raises(BadSample, match="not an image"):
        image_record(RawSample("s.tar", "a", {"jpg": b"x"}))


def query(number: int, *, target: bool) -> Members:
    files = {"source.png": encode(plain(number)), "target.png": encode(plain(1000 + number))}
    if not target:
        del files["target.png"]
    ids = {"source_id": f"i{number}", "target_id": f"i{1000 + number}"}
    return files | {"json": described([], modification=f"{number}", **ids)}


def test_queries_have_the_rows_of_their_published_targets(tmp_path: Path) -> None:
    samples = {f"{n}": query(n, target=n != 1) for n in range(3)}
    manifest = write_shards(tmp_path, [samples])
    given = (SampleReader(manifest), ImageTransform(8), TOKENIZER)
    batch = ComposedSet(*given, targets=True, describe=query_record)[range(3)]
    assert batch.owners.tolist() == [0, 2]
    colours = batch.targets.images[:, :2, 0, 0].tolist()
    assert [256 * red + green for red, green in colours] == [1000, 1002]
    assert [one["caption"] for one in batch.records] == ["0", "1", "2"]
    targets = [one["target"] for one in batch.records]
    assert [one and one["image_id"] for one in targets] == ["i1000", None, "i1002"]
    tar = Path(manifest.shards[0].url).read_bytes()
    for number, record in enumerate(batch.records):
        at, size = record["offset"], record["size"]
        assert tar[at : at + size] == samples[f"{number}"]["source.png"]
    assert not len(ComposedSet(*given)[range(3)].owners)
