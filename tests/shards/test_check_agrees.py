"""`check` refuses of a sample what training and evaluation refuse, and nothing else."""

import io
import json
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shards.check import check_tar
from tests.data.test_contents import BAD_QUERIES, COMPOSED, queries
from tests.data.test_faults import IN_FEATURES, IN_IMAGES, features
from tests.shard_sets import Members, described, encode, numbered, plain, write_shards
from tests.training_sets import TOKENIZER, batches, training_set
from xmodal.data.batch import PAIRS, BatchSpec
from xmodal.data.composed import ComposedSet
from xmodal.data.evaluation import EvaluationSet
from xmodal.data.manifest import Manifest
from xmodal.data.reader import SampleReader
from xmodal.data.transforms import ImageTransform

GOOD = 7  # samples beside the one in question, which is called x
PNG, JPEG = encode(plain(1, (24, 24))), encode(plain(1, (24, 24)), "JPEG")


def checked(manifest: Manifest) -> tuple[bool, int]:
    """Whether `check` calls x broken, and how many of its parts are dropped."""
    report = check_tar(manifest.shards[0].url)
    dropped = {cause for cause in report.counts if cause.startswith("dropped: ")}
    about = [one for found in report.examples.values() for one in found]
    assert all(one.split(" ")[1].startswith("x") for one in about), about
    return report.num_broken == 1, sum(report.counts[cause] for cause in dropped)


def trained(manifest: Manifest, contents: BatchSpec) -> tuple[bool, int]:
    found = batches(training_set(manifest, contents=contents, lanes=4), range(2), size=4)
    faults = [fault for batch in found for fault in batch.faults]
    assert {fault.key for fault in faults} <= {"x"}
    return any(not fault.partial for fault in faults), sum(fault.partial for fault in faults)


def evaluated(manifest: Manifest, contents: BatchSpec) -> tuple[bool, int]:
    reader = SampleReader(manifest)
    kind = ComposedSet if contents.composed else EvaluationSet
    batch = kind(reader, ImageTransform(8), TOKENIZER)[range(len(reader))]
    bad = [fault for fault in batch.faults if not fault.partial]
    return bool(bad), sum(fault.partial for fault in batch.faults)


def assert_alike(folder: Path, others: dict[str, Members], x: Members, contents: BatchSpec) -> bool:
    manifest = write_shards(folder, [dict(list(others.items())[:GOOD]) | {"x": x}])
    found = checked(manifest)
    assert trained(manifest, contents)[0] == found[0]
    if not contents.composed:
        assert evaluated(manifest, contents)[0] == found[0]
        if not found[0]:
            assert evaluated(manifest, contents)[1] == found[1]
    return found[0]


@pytest.mark.parametrize("name", IN_IMAGES)
def test_of_images(tmp_path: Path, name: str) -> None:
    if name != "features":  # a set's own kind is what check cannot know
        assert assert_alike(tmp_path, numbered(GOOD), IN_IMAGES[name][0], PAIRS)


@pytest.mark.parametrize("name", IN_FEATURES)
def test_of_features(tmp_path: Path, name: str) -> None:
    if "other shape" not in name:
        sample = features()["00000"] | IN_FEATURES[name][0]
        assert assert_alike(tmp_path, features(), sample, PAIRS)


@pytest.mark.parametrize("name", [name for name in BAD_QUERIES if name != "a small target"])
def test_of_queries(tmp_path: Path, name: str) -> None:
    sample = dict(queries(GOOD + 1)[f"{GOOD:05d}"])
    BAD_QUERIES[name][0](sample)
    assert assert_alike(tmp_path, queries(GOOD), sample, COMPOSED)


VALUES = st.sampled_from(
    [
        *("a dog", "", " ", "\ufeff", "x" * 10_001, "\ud83d", "\x1b[2J", '["a", "b"]'),
        *("['a', 'b']", 7, 4.0, 4.5, 10**400, float("nan"), True, None, {"raw": "a"}, ["a"], []),
    ]
)
JSON = st.dictionaries(
    st.sampled_from(["captions", "image_id", "labels", "modification", "gallery", "url"]),
    VALUES | st.lists(VALUES, max_size=4),
).map(lambda record: json.dumps(record | {"modification": None}).encode())
TEXTS = st.sampled_from([b"one", b"one\ntwo", b"\xef\xbb\xbfone", b"", b" \n", b"caf\xe9", b"\0"])


@st.composite
def images(draw: st.DrawFn) -> bytes:
    """An image of any format, with a few bytes changed or cut off, its checksums mended or not."""
    kind = draw(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]))
    mode = draw(st.sampled_from(["L", "RGB", "RGBA", "P", "1", "CMYK", "LA", "I;16", "F"]))
    buffer = io.BytesIO()
    try:
        Image.linear_gradient("L").resize((24, 16)).convert(mode).save(buffer, kind)
    except (OSError, ValueError):
        return draw(st.sampled_from([PNG, JPEG, b"", b"<html>"]))
    data = bytearray(buffer.getvalue())
    for at, value in draw(
        st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=2)
    ):
        data[int(at * len(data))] = value
    return bytes(data[: draw(st.integers(len(data) // 2, len(data)))])


@settings(max_examples=80, deadline=None)
@given(
    image=images(),
    name=st.sampled_from(["jpg", "png"]),
    record=st.none() | JSON | st.sampled_from([b"", b"{", b"[1]", b"\xef\xbb\xbf{}", b"[" * 5000]),
    text=st.none() | TEXTS,
)
def test_of_whatever_there_is(
    tmp_path_factory: pytest.TempPathFactory,
    image: bytes,
    name: str,
    record: bytes | None,
    text: bytes | None,
) -> None:
    files = {name: image, "json": record, "txt": text}
    sample = {extension: data for extension, data in files.items() if data is not None}
    if record and b'"gallery": true' in record:
        sample["json"] = b"{}"
    assert_alike(tmp_path_factory.mktemp("set"), numbered(GOOD), sample, PAIRS)


def test_a_wrong_byte_among_the_pixels_of_a_png_is_refused_by_all(tmp_path: Path) -> None:
    data = bytearray(PNG)
    data[data.index(b"IDAT") + 4 + 10] ^= 1
    assert assert_alike(tmp_path, numbered(GOOD), {"png": bytes(data), "txt": b"x"}, PAIRS)
    assert zlib.crc32(PNG) != zlib.crc32(data)


def test_the_same_captions_are_counted_and_read(tmp_path: Path) -> None:
    said = described(["a", " ", 3, "b"])
    manifest = write_shards(tmp_path, [numbered(GOOD) | {"x": {"png": PNG, "json": said}}])
    assert checked(manifest) == trained(manifest, PAIRS) == evaluated(manifest, PAIRS) == (False, 2)
    reader = SampleReader(manifest)
    batch = EvaluationSet(reader, ImageTransform(8), TOKENIZER)[range(GOOD, GOOD + 1)]
    assert batch.captions == ["a", "b"]
