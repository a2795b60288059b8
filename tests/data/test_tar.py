"""Tars: every byte is accounted for, whoever wrote them; what is broken is named."""

import io
import re
import struct
import subprocess
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from xmodal.data.shard_index import write_index
from xmodal.data.storage.local import LocalStorage
from xmodal.data.tar import BrokenShard, Member, TarScan
from xmodal.errors import UserError

BLOCK = 512
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}

PART = st.text("abcXY .-_ü☃\udce9", min_size=1, max_size=90).filter(lambda t: t.strip("./ "))
NAME = st.lists(PART, min_size=1, max_size=3).map("/".join)


def scan(data: bytes) -> TarScan:
    return TarScan(io.BytesIO(data), len(data), "s.tar")


def broken(data: bytes) -> tuple[list[str], str]:
    """The names before the break, and the line that names it."""
    names = list[str]()
    with pytest.raises(BrokenShard) as caught:
        names.extend(member.name for member in scan(data))
    assert "\n" not in str(caught.value)
    return names, str(caught.value)


def contents(data: bytes, members: list[Member]) -> list[tuple[str, bytes]]:
    return [(m.name, data[m.offset : m.offset + m.size]) for m in members]


def info_of(name: str, size: int, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def header(name: str = "b.txt", size: int = 0, **fields: object) -> bytes:
    return info_of(name, size, **fields).tobuf(tarfile.GNU_FORMAT)


def tar(*files: tuple[str, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name, data in files:
            archive.addfile(info_of(name, len(data)), io.BytesIO(data))
    return file.getvalue()


def with_field(block: bytes, start: int, field: bytes) -> bytes:
    """A header with other bytes in it, and a checksum that is right."""
    block = block[:start] + field + block[start + len(field) :]
    return with_checksum(block)


def with_checksum(block: bytes) -> bytes:
    total = 256 + sum(block[:148]) + sum(block[156:BLOCK])
    return block[:148] + b"%06o\0 " % total + block[156:]


def pax(payload: bytes, kind: bytes = b"x") -> bytes:
    block = header("PaxHeader", len(payload), type=kind)
    return block + payload + b"\0" * (-len(payload) % BLOCK)


def record(key: str, value: str) -> bytes:
    rest = f" {key}={value}\n".encode()
    length = len(rest) + 1
    while len(str(length)) + len(rest) != length:
        length = len(str(length)) + len(rest)
    return str(length).encode() + rest


@given(st.sampled_from(sorted(FORMATS)), st.lists(st.tuples(NAME, st.binary(max_size=600))))
def test_what_tarfile_writes_is_read_as_tarfile_reads_it(
    form: str, files: list[tuple[str, bytes]]
) -> None:
    if form == "ustar":  # which has no place for longer names
        files = [(name[:60], data) for name, data in files]
        files = [(name, data) for name, data in files if len(name.encode("utf-8", "replace")) < 100]
    files = [(name, data) for name, data in files if not name.endswith("/")]
    data = tar(*files, form=FORMATS[form])
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8") as archive:
        theirs = [(one.name, one.offset_data, one.size) for one in archive]
    members = list(scan(data))
    assert [tuple(one) for one in members] == theirs
    assert [one for _, one in contents(data, members)] == [one for _, one in files]


@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_what_gnu_tar_writes_is_read(tmp_path: Path, form: str) -> None:
    long = f"{'d' * 90}/{'e' * 60}.jpg"
    names = ["a.jpg", "b c.txt"] + ([] if form == "v7" else [long])
    names += [f"{'f' * 200}.json", "ü☃.txt"] if form in ("oldgnu", "gnu", "posix") else []
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes([number]) * 700 * number)
    done = subprocess.run(
        ["tar", f"--format={form}", "-C", tmp_path, "-cf", "-", *names], capture_output=True
    )
    assert done.returncode == 0, done.stderr
    found = contents(done.stdout, list(scan(done.stdout)))
    assert found == [(name, (tmp_path / name).read_bytes()) for name in names]


def test_what_webdataset_writes_is_read(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "s.tar")) as writer:
        for key in ("a", "k" * 150, "ü"):
            writer.write({"__key__": key, "txt": key, "jpg": b"x" * 600})
    data = (tmp_path / "s.tar").read_bytes()
    with tarfile.open(tmp_path / "s.tar") as archive:
        theirs = [(one.name, one.offset_data, one.size) for one in archive]
    assert [tuple(one) for one in scan(data)] == theirs


def test_sizes_in_base_256_and_in_pax_records_count() -> None:
    size = 700
    base256 = with_field(header(size=size), 124, struct.pack(">B3xQ", 0x80, size))
    in_pax = pax(record("size", str(size)) + record("path", "c.txt")) + header()
    for start in (base256, in_pax):
        data = start + b"x" * size + bytes(BLOCK * 2 - size) + header("z.txt", 1) + bytes(1536)
        assert [one.size for one in scan(data)] == [size, 1]


def test_records_for_all_files_hold_until_a_file_has_its_own() -> None:
    data = pax(record("path", "all.txt"), b"g") + header() + header()
    data += pax(record("path", "own.txt")) + header() + header() + bytes(1024)
    assert [one.name for one in scan(data)] == ["all.txt", "all.txt", "own.txt", "all.txt"]


def test_archives_one_after_the_other_are_all_read_and_told() -> None:
    first, second = tar(("a.txt", b"1")), tar(("b.txt", b"2"))
    for data in (first + second, first[: 2 * BLOCK] + second, first[: 3 * BLOCK] + second):
        found = scan(data)
        assert contents(data, list(found)) == [("a.txt", b"1"), ("b.txt", b"2")]
        inside = len(data) - len(second)
        assert found.archives == ([inside] if inside > 2 * BLOCK else [])


@pytest.mark.parametrize("behind", [b"x", b"x" * BLOCK, bytes(700) + b"garbage" * 200])
def test_bytes_behind_the_end_are_told(behind: bytes) -> None:
    whole = tar(("a.txt", b"1"))
    found = scan(whole + behind)
    assert [one.name for one in found] == ["a.txt"]
    line = r"shard s.tar has [\d,]+ bytes after its end, from byte [\d,]+, that are no tar"
    assert re.fullmatch(line, found.beyond or "")


def test_zeros_behind_the_end_are_none() -> None:
    found = scan(tar(("a.txt", b"1")) + bytes(3 * 2**20 + 7))
    assert len(list(found)) == 1
    assert found.beyond is None


GOOD = tar(("a.txt", b"1"))[: 2 * BLOCK]
OF_TAR = {
    "negative size": with_field(header(), 124, b"-0000001000\0"),
    "negative size in base 256": with_field(header(), 124, struct.pack(">iq", -1, -1024)),
    "negative size of an extended header": with_field(header(type=b"x"), 124, b"-0000001000\0"),
    "a loop of zero steps": with_field(header(type=b"L"), 124, struct.pack(">iq", -1, -512)),
    "size of 2^62": with_field(header(), 124, struct.pack(">B3xQ", 0x80, 2**62)),
    "size of 2^88": with_field(header(), 124, b"\x80" + b"\xff" * 11),
    "size of 2^62 in a record": pax(record("size", str(2**62))) + header(),
    "size of 5,000 digits in a record": pax(record("size", "9" * 5000)) + header(),
    "size below zero in a record": pax(record("size", "-512")) + header(),
    "3,000 extended headers": pax(record("path", "c.txt")) * 3000 + header(),
    "3,000 headers for all": pax(record("comment", "c" * 400), b"g") * 3000 + header(),
    "3,000 long names": pax(b"c.txt\0", b"L") * 3000 + header(),
    "a long name of 2^33 bytes": with_field(
        header(type=b"L"), 124, struct.pack(">B3xQ", 0x80, 2**33)
    ),
    "records of 2 MiB": pax(record("comment", "c" * 2**21)) + header(),
    "records that do not end": pax(b"123456789") + header(),
    "records of no length": pax(b"0 path=c.txt\n") + header(),
    "records that are longer than they are": pax(b"99 path=c.txt\n") + header(),
    "an extended header without a file": pax(record("path", "c.txt")),
    "a size of letters": with_field(header(), 124, b"letters here"),
    "a checksum of letters": header()[:148] + b"letters!" + header()[156:],
    "sparse maps that do not end": with_field(header(type=b"S"), 482, b"\1") + b"\1" * BLOCK * 3,
}


ENDS = ("an extended header without a file", "sparse maps that do not end")  # with the file


@pytest.mark.parametrize("what", OF_TAR)
@pytest.mark.timeout(20)
def test_a_broken_tar_is_named_in_little_memory(what: str) -> None:
    end = b"" if what in ENDS else bytes(2 * BLOCK)
    data = GOOD + OF_TAR[what] + end
    tracemalloc.start()
    names, line = broken(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert names == ["a.txt"]
    assert line.startswith("shard s.tar ")
    assert line.endswith("(last whole file: a.txt)")
    assert peak < 3 * 2**20


@given(st.data())
@settings(max_examples=200)
def test_no_bytes_are_too_bad_for_a_line(data: st.DataObject) -> None:
    """Any change of a tar ends a scan, by its end or by a line, and gives no file outside it."""
    whole = bytearray(tar(("a.txt", b"1" * 600), ("l" * 120 + ".txt", b"2"), form=1))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        piece = data.draw(st.binary(min_size=1, max_size=12))
        whole[at : at + len(piece)] = piece
    if data.draw(st.booleans()):
        whole[:BLOCK] = with_checksum(bytes(whole[:BLOCK]))
    found = scan(bytes(whole))
    try:
        members = list(found)
    except BrokenShard as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    assert all(one.offset >= BLOCK and one.offset + one.size <= len(whole) for one in members)


def test_what_is_no_regular_file_is_counted_and_named() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(info_of("a.txt", 1), io.BytesIO(b"1"))
        archive.addfile(info_of("h.txt", 0, type=tarfile.LNKTYPE, linkname="a.txt"))
        archive.addfile(info_of("s.txt", 0, type=tarfile.SYMTYPE, linkname="a.txt"))
        archive.addfile(info_of("folder.d", 0, type=tarfile.DIRTYPE))
        archive.addfile(info_of("p.txt", 0, type=tarfile.FIFOTYPE))
        archive.addfile(info_of("z.txt", 1), io.BytesIO(b"2"))
    found = scan(file.getvalue())
    assert [one.name for one in found] == ["a.txt", "z.txt"]
    assert found.skipped.examples == {
        "files are skipped (hard link)": ["h.txt"],
        "files are skipped (symbolic link)": ["s.txt"],
        "files are skipped (special file)": ["p.txt"],
    }


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_sparse_files_are_skipped_whole(tmp_path: Path, form: str) -> None:
    """Their bytes are not in the tar one after the other."""
    with (tmp_path / "s.bin").open("wb") as file:
        for hole in range(12):  # of more pieces than the first header has room for
            file.seek(hole * 2**20)
            file.write(b"x" * 5000)
        file.truncate(2**24)
    (tmp_path / "z.txt").write_text("after")
    command = ["tar", "--sparse", f"--format={form}", "-C", tmp_path, "-cf", "-", "s.bin", "z.txt"]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    if len(data) > 2**23:
        pytest.skip("the file system has no holes")
    found = scan(data)
    assert contents(data, list(found)) == [("z.txt", b"after")]
    assert found.skipped.counts == {"files are skipped (sparse file)": 1}


@pytest.mark.parametrize("change", [lambda data: data + tar(("b.txt", b"2")), lambda data: data])
def test_an_index_holds_all_archives_of_a_file(
    tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(change(tar(("a.txt", b"1"))))
    indexed = write_index(path)
    told = "archives begin after the end of another, where most tools stop"
    assert indexed.doubts.counts.get(told, 0) == indexed.num_samples - 1


class Unreadable(LocalStorage):
    """A storage that fails from a byte on, or refuses to open a file at all."""

    def __init__(self, error: Exception, first: int) -> None:
        super().__init__()
        self.error, self.first = error, first

    def open(self, url: str) -> BinaryIO:
        if not self.first:
            raise self.error
        storage = self

        class File(io.BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                if self.tell() >= storage.first:
                    raise storage.error
                return super().read(size)

        return File(Path(url).read_bytes())


@pytest.mark.parametrize("first", [0, 2 * BLOCK])
@pytest.mark.parametrize("error", [UserError("access is denied"), OSError(5, "I/O error")])
def test_what_cannot_be_read_is_not_taken_for_a_cut_tar(
    tmp_path: Path, error: Exception, first: int
) -> None:
    """As when a server goes away: an index of half a shard would be wrong for ever."""
    (tmp_path / "s.tar").write_bytes(tar(("a.txt", b"1"), ("b.txt", b"2")))
    indexed = write_index(tmp_path / "s.tar", Unreadable(error, first))
    assert indexed.num_samples == 0
    assert (indexed.fault or "").endswith(str(error.args[-1]))
    assert not (tmp_path / "s.idx").exists()
