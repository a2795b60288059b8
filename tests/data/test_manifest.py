"""The index of shards: what webdataset writes is found, what is damaged is named."""

import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from xmodal.atomic_files import write_atomically
from xmodal.data.manifest import Shard, read_manifest, write_manifest
from xmodal.data.shard_index import read_index, read_keys, write_index
from xmodal.data.storage.local import LocalStorage
from xmodal.data.tar import Member, Sample, TarScan, key_and_extension, tar_samples
from xmodal.errors import UserError
from xmodal.runs.lock import acquire_run_lock
from xmodal.runs.run import Run

SAMPLES = [
    {"__key__": "a/0001", "jpg": b"x" * 700, "json": {"captions": ["one"]}},
    {"__key__": "a/0002", "Source.JPG": b"y" * 512, "target.jpg": b"z", "json": {}},
    {"__key__": "0003", "png": b"", "txt": "three"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A shard set of two tars, three samples each."""
    for name in ("train-000000.tar", "train-000001.tar"):
        write_tar(tmp_path / name)
    index(tmp_path)
    return tmp_path


def write_tar(path: Path) -> None:
    with webdataset.TarWriter(str(path)) as writer:
        for sample in SAMPLES:
            writer.write(dict(sample))


def index(folder: Path) -> None:
    tars = sorted(folder.glob("*.tar"))
    write_manifest(folder, {tar.name: write_index(tar).num_samples for tar in tars})


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def members(path: Path) -> list[Member]:
    with path.open("rb") as file:
        return list(TarScan(file, path.stat().st_size, str(path)))


def scanned(path: str | Path) -> list[Sample]:
    return list(tar_samples(path))


def samples_of(shard: Shard) -> list[Sample]:
    return read_index(shard.url)[:]


def user_error(url: Path | str) -> str:
    with pytest.raises(UserError) as caught:
        read_manifest(url)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_webdataset_writes_is_found_at_its_offsets(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert manifest.num_samples == 6
    assert [Path(shard.url).name for shard in manifest.shards] == [
        "train-000000.tar",
        "train-000001.tar",
    ]
    for shard in manifest.shards:
        tar = Path(shard.url).read_bytes()
        assert shard.num_bytes == len(tar)
        samples = samples_of(shard)
        assert samples == scanned(shard.url)
        assert [sample.key for sample in samples] == ["a/0001", "a/0002", "0003"]
        offset, size = samples[0].members["jpg"]
        assert tar[offset : offset + size] == b"x" * 700
        offset, size = samples[1].members["source.jpg"]
        assert tar[offset : offset + size] == b"y" * 512
        assert samples[2].members["png"][1] == 0


def test_samples_are_the_ones_that_webdataset_reads(folder: Path) -> None:
    shard = read_manifest(folder).shards[0]
    theirs = webdataset.WebDataset(shard.url, shardshuffle=False)
    assert [(s.key, set(s.members)) for s in samples_of(shard)] == [
        (s["__key__"], {name for name in s if not name.startswith("__")}) for s in theirs
    ]


def test_the_index_is_in_dalis_format(folder: Path) -> None:
    header, *lines = (folder / "train-000000.idx").read_text().splitlines()
    assert header == "v1.2 3"
    shard = read_manifest(folder).shards[0]
    with tarfile.open(shard.url) as tar:
        offsets = {info.name: (info.offset_data, info.size) for info in tar}
    fields = [line.split(" ") for line in lines]
    entries = [f[at : at + 4] for f in fields for at in range(0, len(f), 4)]
    assert {name: (int(at), int(size)) for _, at, size, name in entries} == offsets
    assert [ext for ext, *_ in entries] == [
        *("jpg", "json"),
        *("Source.JPG", "json", "target.jpg"),
        *("png", "txt"),
    ]


def test_the_manifest_is_in_the_format_of_wids(folder: Path) -> None:
    document = json.loads((folder / "shardindex.json").read_text())
    assert document["__kind__"] == "wids-shard-index-v1"
    assert document["wids_version"] == 1
    assert document["shardlist"][1] == {
        "url": "train-000001.tar",
        "nsamples": 3,
        "filesize": (folder / "train-000001.tar").stat().st_size,
    }


def test_a_manifest_can_be_named_by_its_file_and_read_by_relative_path(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    by_file = read_manifest("shardindex.json")
    assert by_file.num_samples == read_manifest(".").num_samples == 6
    assert samples_of(by_file.shards[0])


def test_relevance_is_read_where_there_is_one(folder: Path) -> None:
    assert read_manifest(folder).relevance is None
    (folder / "relevance.json").write_text('{"a": [["a", "b"], ["a"]]}')
    assert read_manifest(folder).relevance == {"a": [["a", "b"], ["a"]]}
    (folder / "relevance.json").write_text("{")
    assert "relevance.json cannot be used (it is no JSON)" in user_error(folder)
    for wrong in ("[" * 100_000, "[]", '{"a": "b"}', '{"a": [["b", null]]}', '{"a": [[true]]}'):
        (folder / "relevance.json").write_text(wrong)
        assert "relevance.json cannot be used (" in user_error(folder)
    (folder / "relevance.json").write_text('{"7": [[7, "8"], [9.0]]}')
    assert read_manifest(folder).relevance == {"7": [["7", "8"], ["9"]]}


FILE_NAME = st.tuples(
    st.text("ab/ ü☃\udce9", min_size=1, max_size=8),
    st.text("abJ. ☃", min_size=1, max_size=6),
).map(".".join)


@given(st.lists(st.tuples(FILE_NAME, st.binary(max_size=3)), max_size=8))
def test_the_index_on_disk_says_what_a_scan_of_the_tar_says(
    tmp_path_factory: pytest.TempPathFactory, files: list[tuple[str, bytes]]
) -> None:
    folder = tmp_path_factory.mktemp("set")
    with tarfile.open(folder / "s.tar", "w") as tar:
        add(tar, "first.txt", b"1")
        for name, data in files:
            add(tar, name, data)
    index(folder)
    shard = read_manifest(folder).shards[0]
    assert samples_of(shard) == scanned(shard.url)
    assert len(read_index(shard.url)) == shard.num_samples
    content = Path(shard.url).read_bytes()
    with tarfile.open(shard.url) as tar:
        stored = [tar.extractfile(m).read() for m in tar if key_and_extension(m.name)]  # type: ignore[union-attr]
    places = [place for sample in samples_of(shard) for place in sample.members.values()]
    assert [content[at : at + size] for at, size in places] == stored


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("0001.jpg", ("0001", "jpg")),
        ("a.b/0001.source.JPG", ("a.b/0001", "source.jpg")),
        ("noextension", None),
        (".hidden.jpg", None),
        ("a/.hidden", None),
        ("__meta__", None),
        ("__pycache__/x.json", None),
        ("a/0001.", None),
    ],
)
def test_names_split_as_webdataset_splits_them(name: str, split: tuple[str, str] | None) -> None:
    assert key_and_extension(name) == split


def test_folders_links_and_meta_files_are_no_samples(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name, kind in (("d.d", tarfile.DIRTYPE), ("l.jpg", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type = kind
            tar.addfile(info)
        add(tar, "__index__/k.json", b"{}")
        add(tar, "k.jpg", b"1")
    assert [sample.key for sample in scanned(tmp_path / "s.tar")] == ["k"]


def test_an_extension_that_comes_again_begins_another_sample(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name in ("k.jpg", "k.json", "k.jpg", "k.json"):
            add(tar, name, b"1")
    assert [set(sample.members) for sample in scanned(tmp_path / "s.tar")] == [
        {"jpg", "json"},
        {"jpg", "json"},
    ]


def test_what_is_missing_is_named(folder: Path) -> None:
    assert "there is no folder" in user_error(folder / "nowhere")
    # To index what has no tar would fail in its turn.
    (above := folder / "above").mkdir()
    shutil.copytree(folder, above / "train", ignore=lambda *_: ["above"])
    assert user_error(above) == f"{above} has no .tar: is one of these meant? {above}/train"
    (folder / "empty/x").mkdir(parents=True)
    assert user_error(folder / "empty") == f"{folder}/empty has no .tar, nor a folder in it"
    (folder / "train-000001.idx").unlink()
    assert "train-000001.tar has no train-000001.idx: run `python -m shards index" in user_error(
        folder
    )
    (folder / "train-000000.tar").unlink()
    assert "train-000000.tar is missing" in user_error(folder)
    (folder / "shardindex.json").unlink()
    assert f"run `python -m shards index {folder}`" in user_error(folder)


def test_a_manifest_without_shards_is_refused(folder: Path) -> None:
    write_manifest(folder, {})
    assert "lists no shards" in user_error(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"shardlist": [{"url": "a.tar"}]}', "\x00"])
def test_what_is_no_manifest_is_refused(folder: Path, text: str) -> None:
    (folder / "shardindex.json").write_text(text)
    assert "is no shard index" in user_error(folder)


def test_an_empty_shard_is_named(folder: Path) -> None:
    with webdataset.TarWriter(str(folder / "train-000002.tar")):
        pass
    index(folder)
    assert "train-000002.tar is empty" in user_error(folder)


def test_a_shard_that_was_cut_since_is_said_and_one_that_grew_refused(folder: Path) -> None:
    shard = folder / "train-000001.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1024])
    (warning,) = read_manifest(folder).warnings
    assert warning.startswith(
        f"shard {shard} is truncated: {len(whole) - 1024:,} of {len(whole):,} bytes;"
    )
    shard.write_bytes(whole + b"0")
    error = user_error(folder)
    assert f"{shard} has {len(whole) + 1:,} bytes" in error
    assert f"{len(whole):,}: changed?" in error


def test_braces_and_tars_name_parts_of_sets(folder: Path) -> None:
    other = folder / "other"
    other.mkdir()
    write_tar(other / "x.tar")
    index(other)

    def names(url: str) -> list[str]:
        return [str(Path(s.url).relative_to(folder)) for s in read_manifest(url).shards]

    both = ["train-000000.tar", "train-000001.tar"]
    assert names(f"{folder}/train-{{000000..000001}}.tar") == both
    assert names(f"{folder}/train-000001.tar") == both[1:]
    assert names(f"{folder}{{,/other}}") == [*both, "other/x.tar"]
    assert names(f"{folder}/{{other/x,train-000000}}.tar") == ["other/x.tar", both[0]]
    with pytest.raises(UserError, match=r"does not list train-000007.tar: run `python -m shards"):
        read_manifest(f"{folder}/train-{{000000..000007..7}}.tar")
    with pytest.raises(UserError, match="a brace is not closed"):
        read_manifest(f"{folder}/train-{{00.tar")


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("", "the URL of shards is empty: name their folder"),
        (" \t", "the URL of shards is empty: name their folder"),
        ("{folder}/a.txt", "a.txt is a file: name the folder of its shards"),
        ("{folder}/s.tar.gz", "s.tar.gz is compressed: unpack it to a plain .tar, and run"),
        ("{folder}/s.tgz", "s.tgz is compressed: unpack it to a plain .tar, and run"),
        ("{folder}/nowhere", "there is no folder"),
        ("{folder}/a.txt/below", "there is no folder"),
        ("{folder}/a\0b", "cannot be read: embedded null byte"),
        ("{folder}/" + "n" * 300, "cannot be read: File name too long"),
        ("{folder}/{{0..99999999999}}.tar", "braces expand to more than 1,000,000 names"),
        ("{folder}/" + "{{a,b}}" * 40 + ".tar", "braces expand to more than 1,000,000 names"),
        ("gs://bucket/train", "gs:// is not supported"),
        ("s3://", "names no bucket"),
    ],
)
def test_what_is_no_folder_of_shards_is_one_line(folder: Path, url: str, line: str) -> None:
    for name in ("a.txt", "s.tar.gz", "s.tgz"):
        (folder / name).write_bytes(b"x")
    assert line in user_error(url.format(folder=folder))


def test_a_folder_without_permission_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("os.scandir", refuse)
    assert user_error(folder) == f"{folder} cannot be read: Permission denied"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("nsamples", -1),
        ("nsamples", 10**9),
        ("nsamples", float("inf")),
        ("nsamples", None),
        ("filesize", "many"),
        ("filesize", [1]),
        ("index", 1),
        ("sha256", {}),
    ],
)
def test_an_entry_that_cannot_be_is_refused(folder: Path, key: str, value: object) -> None:
    path = folder / "shardindex.json"
    document = json.loads(path.read_text())
    document["shardlist"][0][key] = value
    path.write_text(json.dumps(document))
    assert "is no shard index: run `python -m shards index" in user_error(folder)


def test_an_index_that_is_larger_than_its_tar_is_refused(folder: Path) -> None:
    path = folder / "train-000001.idx"
    path.write_bytes(path.read_bytes() + b"\n" * 2 * (folder / "train-000001.tar").stat().st_size)
    assert "train-000001.idx is larger than its tar: run" in user_error(folder)


def test_an_index_whose_files_share_bytes_takes_no_memory(folder: Path) -> None:
    """Each sample would be the whole tar."""
    size = (folder / "train-000000.tar").stat().st_size
    lines = [f"jpg 512 {size - 512} {number:06d}.jpg" for number in range(3)]
    (folder / "train-000000.idx").write_text("\n".join(["v1.2 3", *lines]) + "\n")
    manifest = read_manifest(folder)
    with pytest.raises(UserError, match=r"\.idx has files that share bytes: run `python -m shards"):
        manifest.index(manifest.shards[0])


@pytest.mark.parametrize("count", ["9" * 5000, "٣", "3 ", "-3"])
def test_a_count_that_is_no_number_is_named(folder: Path, count: str) -> None:
    path = folder / "train-000000.idx"
    path.write_text(path.read_text().replace("v1.2 3", f"v1.2 {count}"))
    manifest = read_manifest(folder)
    with pytest.raises(UserError, match=r"\.idx is no index of a tar: run `python -m shards"):
        manifest.index(manifest.shards[0])


ODD_NAME = st.lists(
    st.sampled_from(
        ["a", "B", ".", " ", "1", " 12 3 ", "jpg", ".jpg", "txt", "\n", "\t", "/", "☃"]
    ),
    min_size=1,
    max_size=9,
).map("".join)


@given(st.lists(st.tuples(ODD_NAME, st.sampled_from([".jpg", ".txt", ".Source.PNG"])), max_size=6))
def test_what_index_writes_it_can_read_whatever_the_names(
    tmp_path_factory: pytest.TempPathFactory, names: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("set")
    with tarfile.open(folder / "s.tar", "w") as tar:
        add(tar, "first.txt", b"1")
        for parts in names:
            add(tar, "".join(parts), b"x")
    indexed = write_index(folder / "s.tar")
    read = read_index(folder / "s.tar")[:]
    assert len(read) == indexed.num_samples
    if read:
        keys = read_keys(str(folder / "s.tar"), LocalStorage())
        assert keys == [sample.key.encode("utf-8", "surrogateescape") for sample in read]
    found = scanned(folder / "s.tar")
    skipped = sum(n for cause, n in indexed.doubts.counts.items() if "samples are skipped" in cause)
    assert len(found) == len(read) + skipped
    assert [one for one in found if one in read] == read


def test_names_that_no_index_can_hold_are_named_and_the_rest_indexed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name in ("a", "zz Mr. Bean 1997 2 b", "line\nbreak", "plain with spaces", "z"):
            add(tar, f"{name}.jpg", b"x")
            add(tar, f"{name}.txt", b"x")
    indexed = write_index(tmp_path / "s.tar")
    keys = [sample.key for sample in read_index(tmp_path / "s.tar")]
    assert keys == ["a", "plain with spaces", "z"]
    (line,) = indexed.doubts.lines()
    assert line.startswith("2 samples are skipped, for an index cannot hold their names")
    assert line.endswith(": zz Mr. Bean 1997 2 b.jpg, line\nbreak.jpg")


@pytest.mark.parametrize(
    ("files", "doubted"),
    [
        (["scan_0.00.jpg", "scan_0.01.jpg"], ["scan_0.00.jpg"]),
        (["scan_0.00.jpg", "scan_0.00.txt", "scan_0.01.jpg", "scan_0.01.txt"], ["scan_0.00.jpg"]),
        (["k.jpg", "k.txt", "k.b.jpg", "k.b.txt"], ["k.b.jpg"]),
        (["v1.5.png", "v1.5.json", "v2.0.png", "v2.0.json"], ["v1.5.png", "v2.0.png"]),
        (["k.source.jpg", "k.target.jpg", "k.json"], []),
        (["k.jpg", "k.seg.png", "k.txt"], []),
        (["k.image.npy", "k.text.npy", "k.json"], []),
    ],
)
def test_keys_that_end_at_a_dot_inside_a_name_are_told(
    tmp_path: Path, files: list[str], doubted: list[str]
) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name in files:
            add(tar, name, b"x")
    examples = write_index(tmp_path / "s.tar").doubts.examples
    assert [name for names in examples.values() for name in names] == doubted


def test_other_schemes_are_refused() -> None:
    with pytest.raises(UserError, match="gs:// is not supported"):
        read_manifest("gs://bucket/train")


def test_a_damaged_index_is_named(folder: Path) -> None:
    path = folder / "train-000000.idx"
    good = path.read_text()
    manifest = read_manifest(folder)
    lines = good.splitlines(keepends=True)
    damaged = ["", "v9 3\n", "".join(lines[:-1]), good[:-3], good.replace("txt", "tx t", 1)]
    damaged.append(f"v1.2 2\n{lines[1]}{lines[2]}")
    for text in damaged:
        path.write_text(text)
        with pytest.raises(UserError, match=r"train-000000\.idx.*run `python -m shards index"):
            manifest.index(manifest.shards[0])[:]
    path.unlink()
    with pytest.raises(UserError, match=r"\.idx is missing: run"):
        manifest.index(manifest.shards[0])[:]


def test_a_tar_cut_anywhere_is_named_with_its_last_whole_file(tmp_path: Path) -> None:
    write_tar(tmp_path / "whole.tar")
    whole = (tmp_path / "whole.tar").read_bytes()
    places = [(m.offset + m.size, m.name) for m in members(tmp_path / "whole.tar")]
    cut = tmp_path / "cut.tar"
    for length in range(1, places[-1][0] + 512, 100):
        cut.write_bytes(whole[:length])
        last = [name for end, name in places if end <= length]
        with pytest.raises(UserError) as caught:
            scanned(cut)
        assert str(caught.value) == (
            f"shard {cut} is truncated (last whole file: {last[-1] if last else 'none'})"
        )


def test_files_that_are_no_tar_say_why(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    write_tar(path)
    broken = bytearray(path.read_bytes())
    second = next(m for m in members(path) if m.name == "a/0001.json").offset - 512
    broken[second : second + 100] = b"#" * 100
    for content, why in [
        (b"", "zero bytes"),
        (b"\x1f\x8b" + b"0" * 600, "is compressed"),
        (b"text " * 300, "is no tar"),
        (bytes(broken), r"broken header at byte [\d,]+ \(last whole file: a/0001.jpg\)"),
    ]:
        path.write_bytes(content)
        with pytest.raises(UserError, match=why):
            scanned(path)
    with pytest.raises(UserError, match="cannot be read"):
        scanned(tmp_path / "nowhere.tar")


@pytest.mark.parametrize("name", ["shardindex.json", "relevance.json"])
def test_json_of_gigabytes_is_not_read(folder: Path, name: str) -> None:
    (folder / name).touch()
    os.truncate(folder / name, 2**40)
    with pytest.raises(UserError, match=rf"{name} is over 536,870,912 bytes"):
        read_manifest(folder)


def test_a_file_is_written_in_its_place_alone(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept")
    (tmp_path / "recipe.yaml.part").symlink_to(precious)
    (tmp_path / "metrics.jsonl").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic links"):
        write_atomically(tmp_path / "recipe.yaml", "run: x\n")
    for write in (
        lambda: Run(tmp_path).log({"step": 1}),
        lambda: acquire_run_lock(tmp_path, "it").close(),
    ):
        (tmp_path / "lock").unlink(missing_ok=True)
        (tmp_path / "lock").symlink_to(precious)
        with pytest.raises(UserError, match="cannot be written: Too many levels of symbolic"):
            write()
    assert precious.read_text() == "kept"
