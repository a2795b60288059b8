"""Files of class names and templates beside shards, and the classes of `.cls`."""

from pathlib import Path

import pytest

from tests.shard_sets import described, encode, plain, write_shards
from xmodal.data.class_files import NAMES, TEMPLATES, ClassFiles, read_class_files
from xmodal.data.decode import BadSample
from xmodal.data.manifest import Manifest, Shard, read_manifest
from xmodal.data.reader import SampleReader
from xmodal.data.samples import RawSample
from xmodal.errors import UserError

IMAGE = encode(plain(1))


def labelled(folder: Path, *labels: bytes) -> Manifest:
    samples = {f"s{n:07d}": {"png": IMAGE, "cls": label} for n, label in enumerate(labels)}
    return write_shards(folder, [samples])


@pytest.fixture
def shards(tmp_path: Path) -> Manifest:
    return labelled(tmp_path / "test", b"1")


@pytest.mark.parametrize("folder", ["", "test"])
def test_files_lie_in_the_folder_or_above_it(
    folder: str, shards: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    alone = read_class_files(shards)
    assert (alone.names, alone.templates) == (None, None)
    (tmp_path / folder / NAMES).write_bytes(b"\xef\xbb\xbfa cat\r\ndog \n\xe6\xa9\x8b\n")
    (tmp_path / folder / TEMPLATES).write_text("a photo of a {c}.\n{c}, {c}\n")
    for url in (shards.url, "test", f"{shards.url}/set-{{000000..000000}}.tar"):
        found = read_class_files(read_manifest(url))
        assert found.names == ("a cat", "dog", "橋")
        assert found.templates == ("a photo of a {}.", "{}, {}")


def test_a_label_is_a_line_or_its_number() -> None:
    files = ClassFiles("URL", ("cat", "7", "crane", "crane"), None)
    assert [files.number(label) for label in ("cat", "0", "3", "crane")] == [0, 0, 3, 2]
    for label in ("4", "7", "-1", "dog", "²"):
        with pytest.raises(UserError, match=f"^URL has the label {label}, which classnames.txt"):
            files.number(label)


@pytest.mark.parametrize(
    ("name", "data", "line"),
    [
        (NAMES, b"cat\n\ndog\n", "URL/classnames.txt: line 2 is empty; "),
        (NAMES, b"", "URL/classnames.txt: line 1 is empty; "),
        (NAMES, b"caf\xe9\n", "URL/classnames.txt is not UTF-8; "),
        (TEMPLATES, b"a {}\n", "zeroshot_classification_templates.txt: 'a {}' has no {c}, the"),
    ],
)
def test_files_that_cannot_be_used_are_one_line(
    name: str, data: bytes, line: str, shards: Manifest, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as error:
        read_class_files(shards)
    assert str(error.value).startswith(line.replace("URL", str(tmp_path)))


def test_folders_with_different_files_are_not_measured_together(tmp_path: Path) -> None:
    for name in "ab":
        labelled(tmp_path / name / "test", b"0")
        (tmp_path / name / NAMES).write_text(f"{name}\n")
    with pytest.raises(UserError, match=r"test: its folders have different classnames\.txt"):
        read_class_files(read_manifest(f"{tmp_path}/{{a,b}}/test"))


class Bucket:
    """A storage of some files, which notes what is read."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files, self.read_urls = files, list[str]()

    def read(self, url: str, start: int = 0, stop: int | None = None) -> bytes:
        self.read_urls.append(url)
        if url not in self.files:
            raise FileNotFoundError(url)
        return self.files[url][start:stop]


@pytest.mark.parametrize("folder", ["s3://bucket", "s3://bucket/set", "s3://bucket/set/test"])
def test_files_lie_in_a_bucket(folder: str) -> None:
    above = "s3://bucket/set" if folder.endswith("test") else "s3://bucket"
    bucket = Bucket({f"{above}/{NAMES}": b"cat\ndog\n"})
    shard = Shard(f"{folder}/0.tar", 1, 1, 1)
    assert read_class_files(Manifest(folder, (shard,), storage=bucket)).names == ("cat", "dog")
    assert {url.rpartition("/")[0] for url in bucket.read_urls} == {folder, above}


def test_a_file_that_is_too_large_is_one_line() -> None:
    bucket = Bucket({f"s3://b/{NAMES}": b"x" * (2**24 + 1)})
    shards = Manifest("s3://b", (Shard("s3://b/0.tar", 1, 1, 1),), storage=bucket)
    with pytest.raises(
        UserError, match=r"^s3://b/classnames\.txt is over 16,777,216 bytes; remove"
    ):
        read_class_files(shards)


def test_cls_is_the_class_where_the_json_has_none(tmp_path: Path) -> None:
    reader = SampleReader(labelled(tmp_path, b"12\n", b"tabby cat", b"[3, 4]", b""))
    assert [reader[n].labels() for n in range(3)] == [["12"], ["tabby cat"], ["3", "4"]]
    with pytest.raises(BadSample, match="cls is empty"):
        reader[3].labels()
    with pytest.raises(BadSample, match="label in its cls is not UTF-8"):
        RawSample("s", "k", {"cls": b"caf\xe9"}).labels()
    both = {"cls": b"3", "json": described([], labels=["dog"])}
    assert RawSample("s", "k", both).labels() == ["dog"]
