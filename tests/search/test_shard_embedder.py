"""Shards are dealt to ranks, and bad samples of them counted."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.search.embedding_folders import embedded_files, image_record, write_embeddings
from tests.search.test_embeddings import made
from xmodal.commands.embed import summary_lines
from xmodal.data.batch import Fault
from xmodal.errors import UserError
from xmodal.search.embeddings import INFO, Embeddings
from xmodal.search.output_folder import OutputFolder
from xmodal.search.shard_embedder import FaultLog, deal


@given(st.lists(st.integers(1, 1000), max_size=40), st.integers(1, 9))
def test_every_shard_is_dealt_once_and_evenly(sizes: list[int], ranks: int) -> None:
    dealt = deal(dict(enumerate(sizes)), ranks)
    assert sorted(number for mine in dealt for number in mine) == list(range(len(sizes)))
    loads = [sum(sizes[number] for number in mine) for mine in dealt]
    # Of two ranks one has at most a shard more than the other, and no rank begins with a small one.
    assert max(loads) - min(loads) <= max(sizes, default=0)
    assert all(sizes[a] >= sizes[b] for mine in dealt for a, b in pairwise(mine))


def test_the_first_bad_samples_are_named_and_too_many_are_an_error() -> None:
    lines: list[str] = []
    log = FaultLog(lines.append, 0.01, named=2)
    log.count([Fault("a.tar", f"{n}", "is broken") for n in range(10)], 10)
    assert lines == [
        "bad sample, skipped: a.tar, 0: is broken",
        "bad sample, skipped: a.tar, 1: is broken",
        "further ones are counted, and named in faults/",
    ]
    log.count([Fault("a.tar", "c", "a caption is no text", partial=True)] * 20, 20)
    with pytest.raises(UserError, match=r"11 of 31 samples cannot be read, the last a\.tar, x: y;"):
        log.count([Fault("a.tar", "x", "y")], 1)


def folder_of(path: Path) -> OutputFolder:
    rows = [image_record(f"{n}") for n in range(2)]
    return OutputFolder(str(write_embeddings(path, [(made(2, 4), rows)] * 2)))


def test_one_part_is_named_as_one(tmp_path: Path) -> None:
    folder_of(tmp_path)
    info = Embeddings(tmp_path).info
    for parts, named in ((1, "in 1 part"), (2, "in 2 parts")):
        line = next(summary_lines(info.model_copy(update={"parts": parts}), "to"))
        assert named in line.split(", ")


def test_a_file_as_a_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = f"^--to {tmp_path}/file cannot be made a folder: File exists; name another folder$"
    with pytest.raises(UserError, match=line):
        OutputFolder(f"{tmp_path}/file").check("sha256-1", "float16")


def test_a_finished_folder_stays_as_it_is(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    info = Embeddings(tmp_path).info
    (tmp_path / f"{INFO}.12.part").touch()  # of a process that was killed
    before = embedded_files(tmp_path)
    folder.check(info.data.fingerprint, info.dtype)
    folder.begin(info)
    folder.finish(folder.summarise("m", ["s", "s"]), None)
    del before[f"{INFO}.12.part"]
    assert embedded_files(tmp_path) == before


def test_parts_of_another_model_or_shard_are_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    with pytest.raises(UserError, match=r"part 0 of .* is of another model or shard"):
        folder.summarise("other", ["s", "s"])
    with pytest.raises(UserError, match=r"part 1 of .* is of another model or shard"):
        folder.summarise("m", ["s", "t"])
    (tmp_path / "metadata" / "metadata_0001.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"metadata_0001\.parquet is missing or damaged"):
        folder.summarise("m", ["s", "s"])
