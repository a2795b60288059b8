"""Lengths of texts, which are known before the texts are read."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.keep_lists import write_keep_list
from tests.shard_sets import Members, encode, numbered, plain, with_lengths, write_shards
from xmodal.data.decode import BadSample
from xmodal.data.keep_list import keep_only
from xmodal.data.manifest import Manifest, read_manifest
from xmodal.data.reader import SampleReader
from xmodal.data.samples import RawSample
from xmodal.data.text_lengths import TextLengths, check_lengths, lengths_path
from xmodal.errors import UserError

IMAGE = encode(plain(1))
RECORDS: list[object] = [
    {"captions": ["one", "zwei drei", "一个男人"], "zh": "一只狗", "labels": ["dog", "wolf"]},
    {"captions": [], "en": ["hi there", "", 3], "labels": 7},
    {"captions": None, "zh": ["猫", "两只猫"]},
    {"modification": "make it red", "source_id": "1"},
    {"modification": "make it red", "captions": ["blue", "green"], "source_id": "1"},
    {},
    ["no object"],
]


def samples() -> dict[str, Members]:
    found: dict[str, Members] = {
        f"{number}": {"png": IMAGE, "json": json.dumps(record).encode()}
        for number, record in enumerate(RECORDS)
    }
    found["7"] = {"png": IMAGE, "txt": b"a dog\nein Hund\n"}
    found["8"] = {"png": IMAGE, "txt": b"\xff"}
    return found


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Texts under several keys, some of which cannot be used, in two shards."""
    items = list(samples().items())
    return with_lengths(
        write_shards(tmp_path_factory.mktemp("set"), [dict(items[:4]), dict(items[4:])])
    )


def drawn(sample: RawSample, number: float, keys: dict[str, float], templates: list[str]) -> int:
    try:
        return len(sample.draw(number, keys, templates=templates).encode())
    except BadSample:
        return 0


@given(
    st.dictionaries(
        st.sampled_from(["captions", "zh", "en", "labels", "txt", "nothing"]),
        st.floats(0.1, 5),
        max_size=4,
    ),
    st.booleans(),
    st.floats(0, 1, exclude_max=True),
)
def test_they_are_those_of_the_texts_that_are_drawn(
    manifest: Manifest, keys: dict[str, float], templates: bool, number: float
) -> None:
    written = ["ein {}.", "{} auf {} Wörtern"[:6]] if templates and "labels" in keys else []
    lengths, reader = TextLengths(manifest, keys, written), SampleReader(manifest)
    for place in range(len(reader)):
        assert lengths.drawn(place, number) == drawn(reader[place], number, keys, written), place


def test_a_keep_list_has_those_of_the_samples_that_it_keeps(
    manifest: Manifest, tmp_path: Path
) -> None:
    names = [("set-000001.tar", "7"), ("set-000000.tar", "2"), ("set-000000.tar", "0")]
    kept = keep_only(manifest, str(write_keep_list(tmp_path / "keep.parquet", names)))
    lengths, reader = TextLengths(kept), SampleReader(kept)
    assert [reader[number].key for number in range(3)] == ["0", "2", "7"]
    assert [lengths.drawn(number, 0.0) for number in range(3)] == [3, 0, 5]


def _remove(path: Path) -> None:
    path.unlink()


def _of_another(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'{"index":"', b'{"index":"0', 1))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _one_less(path: Path) -> None:
    found = json.loads(path.read_bytes())
    found["texts"]["captions"]["counts"].pop()
    path.write_text(json.dumps(found))


def _negative(path: Path) -> None:
    found = json.loads(path.read_bytes())
    found["texts"]["captions"]["counts"][0] -= 2
    path.write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (_remove, "is missing"),
        (_of_another, "is of another tar"),
        (_cut, "is damaged"),
        (_one_less, "is of another tar"),
        (_negative, "is of another tar"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(
    tmp_path: Path, spoil: Callable[[Path], None], fault: str
) -> None:
    manifest = with_lengths(write_shards(tmp_path, [numbered(5)]))
    assert TextLengths(manifest).drawn(4, 0.5) == 3
    path = Path(lengths_path(manifest.shards[0].url))
    spoil(path)
    with pytest.raises(UserError) as error:
        TextLengths(manifest).drawn(4, 0.5)
    assert str(error.value) == f"{path} {fault}: run `python -m shards lengths {tmp_path}`"


def test_every_shard_needs_them(tmp_path: Path) -> None:
    manifest = with_lengths(write_shards(tmp_path, [numbered(3), numbered(4)]))
    check_lengths(manifest)
    (tmp_path / "set-000001.lengths").unlink()
    first = dataclasses.replace(manifest, shards=manifest.shards[:1])
    check_lengths(first)
    with pytest.raises(UserError, match=r"set-000001\.lengths is missing: run `python -m shards"):
        check_lengths(manifest)


def test_they_are_the_same_however_often_they_are_measured(tmp_path: Path) -> None:
    manifest = with_lengths(write_shards(tmp_path, [numbered(3)]))
    path = tmp_path / "set-000000.lengths"
    before = path.read_bytes()
    with_lengths(read_manifest(tmp_path))
    assert path.read_bytes() == before
    assert np.unique([TextLengths(manifest).drawn(n, 0.0) for n in range(3)]).tolist() == [3]
