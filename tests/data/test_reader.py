"""Samples by their numbers: in the order asked for, in few reads, and what is missing is said."""

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.shard_sets import Members, described, encode, numbered, plain, write_shards
from tests.training_sets import samples_in, watched
from xmodal.data import reader as module
from xmodal.data.decode import BadSample
from xmodal.data.manifest import Manifest, read_manifest, write_manifest
from xmodal.data.reader import SampleReader
from xmodal.data.shard_index import write_index
from xmodal.errors import UserError

SAMPLES = list(numbered(12).items())
PNG = encode(plain(7))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Twelve samples in three shards."""
    parts = [dict(SAMPLES[:5]), dict(SAMPLES[5:6]), dict(SAMPLES[6:])]
    return write_shards(tmp_path_factory.mktemp("set"), parts)


def test_samples_are_numbered_through_the_shards(manifest: Manifest) -> None:
    reader = SampleReader(manifest)
    assert len(reader) == 12
    assert [reader.locate(number)[1].key for number in range(12)] == [key for key, _ in SAMPLES]
    for number, (key, members) in enumerate(SAMPLES):
        sample = reader[number]
        assert (sample.key, sample.files) == (key, members)
        assert sample.shard == reader.locate(number)[0].url
        assert sample.captions()[0] == f"{number} 0"


@given(st.lists(st.integers(0, 11), max_size=20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_samples_come_in_the_order_asked_for(manifest: Manifest, numbers: list[int]) -> None:
    found = SampleReader(manifest).load(numbers)
    assert [sample.key for sample in found] == [SAMPLES[number][0] for number in numbers]
    assert [sample.files for sample in found] == [SAMPLES[number][1] for number in numbers]


def test_only_the_files_that_are_wanted_are_read(manifest: Manifest) -> None:
    for sample in SampleReader(manifest).load(range(12), ["json", "txt"]):
        assert list(sample.files) == ["json"]
        assert sample.captions()


def test_consecutive_samples_are_one_read_a_shard(manifest: Manifest, tmp_path: Path) -> None:
    manifest = watched(manifest, tmp_path / "log")
    SampleReader(manifest).load(range(12))
    reads = manifest.storage.reads()
    assert [read.url for read in reads] == [shard.url for shard in manifest.shards]


@pytest.mark.parametrize("order", [[0, 2], [2, 0], [2, 0, 2]])
@pytest.mark.parametrize(("space", "reads"), [(0, 1), (-1, 2)])
def test_what_lies_far_apart_is_read_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: int, reads: int, order: list[int]
) -> None:
    """The second sample, which is not asked for, lies between."""
    samples = {"a": {"txt": b"a"}, "b": {"txt": b"b" * 5000}, "c": {"txt": b"c"}}
    manifest = write_shards(tmp_path / "set", [samples])
    manifest = watched(manifest, tmp_path / "log")
    one, _, last = (sample.members["txt"] for sample in manifest.index(manifest.shards[0]))
    between = last[0] - 1024 - one[0] - one[1]
    monkeypatch.setattr(module, "_GAP_NEAR", between + space)
    found = SampleReader(manifest).load(order)
    assert [sample.files["txt"] for sample in found] == [b"abc"[n : n + 1] for n in order]
    log = manifest.storage.reads()
    assert len(log) == reads
    assert [log[0].start, log[-1].stop] == [one[0] - 512, sum(last)]  # nothing before a header


def test_what_is_far_bears_wider_gaps(tmp_path: Path) -> None:
    """A request to a bucket costs more than a megabyte that is not needed."""
    samples = {"a": {"txt": b"a"}, "b": {"txt": b"b" * 10**5}, "c": {"txt": b"c"}}
    manifest = write_shards(tmp_path / "set", [samples])
    for far, reads in ((False, 2), (True, 1)):
        one = watched(manifest, tmp_path / f"{far}", far=far)
        SampleReader(one).load([0, 2])
        assert len(one.storage.reads()) == reads


def test_what_will_be_loaded_is_told_shard_by_shard(tmp_path: Path) -> None:
    """And nothing of the shards between: a block goes on in whatever shard the order says."""
    samples = list(numbered(60).items())
    parts = [dict(samples[n : n + 10]) for n in range(0, 60, 10)]
    manifest = watched(write_shards(tmp_path / "set", parts), tmp_path / "log")
    reader = SampleReader(manifest)
    reader.will_load([51, 8, 52, 9, 50])
    told = manifest.storage.told
    assert len(manifest.storage.indices) == 2
    assert [one.url for one in told] == [manifest.shards[n].url for n in (0, 5)]
    assert samples_in(manifest, told) == [8, 9, 50, 51, 52]
    assert manifest.storage.reads() == []


def test_a_file_of_zero_bytes_is_empty_and_needs_no_read(tmp_path: Path) -> None:
    manifest = write_shards(tmp_path / "set", [{"a": {"jpg": b""}, "b": {"jpg": b"", "txt": b"x"}}])
    manifest = watched(manifest, tmp_path / "log")
    assert SampleReader(manifest)[0].files == {"jpg": b""}
    assert manifest.storage.reads() == []
    found = [one.files for one in SampleReader(manifest).load([0, 1])]
    assert found == [{"jpg": b""}, {"jpg": b"", "txt": b"x"}]


def test_nothing_is_read_beyond_the_end_of_a_cut_shard(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    manifest = write_shards(folder, [numbered(4)])
    end = SampleReader(manifest).locate(2)[1].members["png"][0]
    os.truncate(manifest.shards[0].url, end)
    manifest = watched(read_manifest(folder), tmp_path / "log")
    for number, missing in enumerate([0, 0, 2, 2]):
        files = SampleReader(manifest)[number].files
        assert list(files.values()).count(None) == missing
    assert max(read.stop for read in manifest.storage.reads()) <= end


def test_a_member_that_reaches_past_the_end_is_cut_short(tmp_path: Path) -> None:
    manifest = write_shards(tmp_path, [numbered(3)])
    offset, size = SampleReader(manifest).locate(2)[1].members["json"]
    for end in (offset + size - 1, offset, offset - 600):
        os.truncate(manifest.shards[0].url, end)
        first, _, last = SampleReader(manifest).load([0, 1, 2])
        assert last.files["json"] is None
        with pytest.raises(BadSample, match="json is truncated"):
            last.captions()
        assert first.captions()[0] == "0 0"


def rewrite(url: str, samples: Mapping[str, Members], form: int = tarfile.GNU_FORMAT) -> None:
    """Write a tar anew, without its index."""
    with tarfile.open(url, "w", format=form) as tar:
        for key, members in samples.items():
            for extension, data in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def texts(*captions: str) -> dict[str, Members]:
    return {f"{n:03d}": {"txt": one.encode()} for n, one in enumerate(captions)}


STALE = {
    "longer captions": texts("a red cat at night", "a dog", "a cow"),
    "shorter captions": texts("a cat", "a dog", "a cow"),
    "samples in another order": dict(reversed(texts("a red cat", "a dog", "a cow").items())),
    "other keys": {f"x{key[1:]}": one for key, one in texts("a red cat", "a dog", "a cow").items()},
    "another sample between": texts("a red cat", "a red dog", "a dog"),
    "one sample more": texts("a red cat", "a dog", "a cow", "more"),
    "no tar": {},
}


@pytest.mark.parametrize("what", STALE)
def test_a_tar_that_was_written_anew_at_the_same_size_is_one_line(
    tmp_path: Path, what: str
) -> None:
    manifest = write_shards(tmp_path, [texts("a red cat", "a dog", "a cow")])
    shard, size = manifest.shards[0].url, manifest.shards[0].num_bytes
    if what == "no tar":
        Path(shard).write_bytes(b"text " * (size // 5))
    else:
        rewrite(shard, STALE[what])
    assert Path(shard).stat().st_size == size
    line = (
        f"shard {shard} has changed since it was indexed: run `python -m shards index {tmp_path}`"
    )
    if what == "one sample more":  # nothing that is read is wrong
        assert [one.captions() for one in SampleReader(manifest).load([0, 2])]
        return
    reader, lines = SampleReader(read_manifest(tmp_path)), set()
    for number in range(3):
        try:
            reader.load([number])
        except UserError as error:
            lines.add(str(error))
    assert lines == {line}


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("start", ["x" * 120, "图", "folder/" + "ü" * 60])
def test_long_names_in_another_order_are_noticed(tmp_path: Path, start: str, form: int) -> None:
    """All files are of one size, so that the names alone differ, which stand before headers."""
    samples: dict[str, Members] = {f"{start}{n}": {"txt": b"%d" % n} for n in range(3)}
    path = tmp_path / "s.tar"
    rewrite(str(path), samples, form)
    write_manifest(tmp_path, {path.name: write_index(path).num_samples})
    rewrite(str(path), dict(reversed(samples.items())), form)
    with pytest.raises(UserError, match="has changed since it was indexed"):
        SampleReader(read_manifest(tmp_path)).load([0])


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_headers_of_all_kinds_are_those_of_their_index(tmp_path: Path, form: int) -> None:
    keys = ["a", "folder/b", "d" * 80 + "/" + "e" * 60, "ü☃", "K"]
    samples: dict[str, Members] = {key: {"JPG": key.encode(), "txt": b"t"} for key in keys}
    rewrite(str(tmp_path / "s.tar"), samples, form)
    write_manifest(tmp_path, {"s.tar": write_index(tmp_path / "s.tar").num_samples})
    manifest = watched(read_manifest(tmp_path), tmp_path / "log")
    found = SampleReader(manifest).load(range(5))
    assert [one.files["jpg"].decode() for one in found] == keys
    assert len(manifest.storage.reads()) == 1  # none was scanned again


def test_a_header_that_only_looks_strange_is_looked_into_once(tmp_path: Path) -> None:
    """Such as a name in a header before it that has nothing of it in its own."""
    manifest = write_shards(tmp_path, [texts("a", "b")])
    path = Path(manifest.shards[0].url)
    data = bytearray()
    for name, text in (("000.txt", b"a"), ("001.txt", b"b")):
        record = b"16 path=" + name.encode() + b"\n"
        extended, strange = tarfile.TarInfo("PaxHeader"), tarfile.TarInfo(f"strange-{name}")
        extended.type, extended.size, strange.size = tarfile.XHDTYPE, len(record), 1
        for info, content in ((extended, record), (strange, text)):
            data += info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(512 - len(content))
    path.write_bytes(bytes(data) + bytes(1024))
    write_manifest(tmp_path, {path.name: write_index(path).num_samples})
    found = SampleReader(read_manifest(tmp_path)).load([0, 1])
    assert [one.captions() for one in found] == [["a"], ["b"]]


def test_a_broken_header_is_a_bad_sample(tmp_path: Path) -> None:
    manifest = write_shards(tmp_path, [texts("a", "b", "c")])
    offset = SampleReader(manifest).locate(1)[1].members["txt"][0]
    with Path(manifest.shards[0].url).open("r+b") as tar:
        tar.seek(offset - 512)
        tar.write(b"\xff" * 100)
    first, second, _ = SampleReader(manifest).load([0, 1, 2])
    assert first.captions() == ["a"]
    with pytest.raises(BadSample, match="its header in the tar is broken"):
        second.captions()


def test_a_shard_that_goes_away_is_one_line(tmp_path: Path) -> None:
    manifest = write_shards(tmp_path, [numbered(1)])
    reader = SampleReader(manifest)
    Path(manifest.shards[0].url).unlink()
    with pytest.raises(UserError, match=r"^shard \S*000000\.tar cannot be read: the file is miss"):
        reader[0]


def test_a_shard_that_is_a_folder_is_one_line(tmp_path: Path) -> None:
    manifest = write_shards(tmp_path, [numbered(1)])
    Path(manifest.shards[0].url).unlink()
    Path(manifest.shards[0].url).mkdir()
    with pytest.raises(UserError, match=r"^\S*000000\.tar cannot be read: [^\n]*$"):
        SampleReader(manifest)[0]


def test_an_index_that_goes_away_is_one_line(tmp_path: Path) -> None:
    manifest = write_shards(tmp_path, [numbered(1)])
    Path(manifest.shards[0].url).with_suffix(".idx").unlink()
    with pytest.raises(UserError, match=r"000000\.idx is missing: run `python -m shards index "):
        SampleReader(manifest)[0]


def test_an_index_of_places_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    """Such as one damaged by hand, or made to fill the memory."""
    manifest = write_shards(tmp_path, [{"a": {"txt": b"x"}, "b": {"txt": b"y"}}])
    index = Path(manifest.shards[0].url).with_suffix(".idx")
    good = index.read_text()
    first = SampleReader(manifest).locate(0)[1].members["txt"][0]
    line = r"\.idx (is of|has files).*run `python -m shards index \S+`$"
    for place in (f"{first} {10**15}", f"{first} 1000", f"{first} -1", f"0 {first}"):
        index.write_text(good.replace(f"txt {first} 1", f"txt {place}"))
        with pytest.raises(UserError, match=line):
            SampleReader(manifest).load([0, 1])


@pytest.mark.parametrize("apart", [False, True])
def test_keys_that_come_twice_are_doubted(tmp_path: Path, apart: bool) -> None:
    first: dict[str, Members] = {"a": {"txt": b"1"}, "b": {"txt": b"2"}, "c": {"txt": b"3"}}
    manifest = write_shards(tmp_path, [first])
    index = Path(manifest.shards[0].url).with_suffix(".idx")
    index.write_text(index.read_text().replace("c.txt", "a.txt" if apart else "b.txt"))
    reader = SampleReader(manifest)
    assert reader[0].captions() == ["1"]
    assert reader[1].captions() == ["2"]
    with pytest.raises(BadSample, match=r"^key comes twice in its shard$"):
        reader[2].captions()


def test_a_key_may_come_again_in_another_shard(tmp_path: Path) -> None:
    reader = SampleReader(write_shards(tmp_path, [{"a": {"txt": b"1"}}, {"a": {"txt": b"2"}}]))
    assert [sample.captions() for sample in reader.load([0, 1])] == [["1"], ["2"]]
    assert reader[0].image_id != reader[1].image_id


def test_the_files_of_a_reader_are_closed_with_it(tmp_path: Path) -> None:
    shards = [dict([sample]) for sample in numbered(40).items()]
    before = open_tars()
    reader = SampleReader(write_shards(tmp_path, shards))
    reader.load(range(40))
    assert open_tars() - before == 40
    del reader
    assert open_tars() == before


def test_many_sets_keep_few_files_open_and_few_indices(tmp_path: Path) -> None:
    """Under the usual limit of 1,024 descriptors, which a mixture of 8 × 40 of 64 stands for."""
    sets = [
        write_shards(tmp_path / f"{n}", [dict([one]) for one in numbered(40).items()])
        for n in range(8)
    ]
    script = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from xmodal.data.manifest import read_manifest
from xmodal.data.reader import SampleReader
readers = [SampleReader(read_manifest(folder)) for folder in sys.argv[1:]]
for _ in range(2):
    for number in range(40):
        for reader in readers:
            assert reader[number].captions()
"""
    folders = [one.url for one in sets]
    done = subprocess.run([sys.executable, "-c", script, *folders], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_soft_limit_is_raised(tmp_path: Path) -> None:
    write_shards(tmp_path, [numbered(1)])
    script = """
import resource, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
from xmodal.data.manifest import read_manifest
from xmodal.data.reader import SampleReader
SampleReader(read_manifest(sys.argv[1]))[0]
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(hard, 8192))
"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


def open_tars() -> int:
    """Number of tars that this process has open."""
    targets = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            targets.append(descriptor.readlink())
        except FileNotFoundError:
            continue  # the one that lists the folder
    return sum(target.suffix == ".tar" for target in targets)


def test_captions_are_where_img2dataset_puts_them(tmp_path: Path) -> None:
    samples = {
        "a": {"jpg": PNG, "txt": "  a café \n".encode(), "json": b'{"caption": "x", "url": 1}'},
        "b": {"jpg": PNG, "txt": b"only text"},
        "c": {"jpg": PNG, "txt": b"text", "json": described(["json"])},
    }
    reader = SampleReader(write_shards(tmp_path, [samples]))
    found = [sample.captions() for sample in reader.load(range(3))]
    assert found == [["a café"], ["only text"], ["json"]]
    assert len({sample.image_id for sample in reader.load(range(3))}) == 3


def test_files_that_are_too_large_are_named_and_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xmodal.data.samples.MAX_SAMPLE_BYTES", 4000)
    samples = {"a": {"jpg": bytes(4001)}, "b": {"txt": b"x", "mp4": bytes(4001)}}
    manifest = watched(write_shards(tmp_path / "set", [samples]), tmp_path / "log")
    large, other = SampleReader(manifest).load([0, 1])
    assert large.doubt == "files of over 4,000 bytes"
    assert other.captions() == ["x"]
    assert all(read.stop - read.start < 4001 for read in manifest.storage.reads())
