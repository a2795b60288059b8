"""Keep-lists: parquet that training reads, and DataComp's uids, there and back."""

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.search.curation.sets import unit, write_set
from xmodal.data.keep_list_file import read_rows
from xmodal.data.storage import open_storage
from xmodal.errors import UserError
from xmodal.search.curation.tasks import curate
from xmodal.search.keep_lists import read_uids, uids_of, write_keep_list, write_uids

RNG = random.Random(0)
UIDS = [f"{RNG.getrandbits(128):032x}" for _ in range(40)]


def datacomp(uids: list[str]) -> np.ndarray:
    """Uids as DataComp's baselines write them."""
    pairs = [(int(uid[:16], 16), int(uid[16:32], 16)) for uid in uids]
    array = np.array(pairs, np.dtype("u8,u8"))
    array.sort()
    return array


@pytest.fixture
def embeddings(tmp_path: Path) -> Path:
    return write_set(tmp_path / "embeddings", unit(40, 4), uid=UIDS)


def test_there_and_back(embeddings: Path, tmp_path: Path) -> None:
    kept = sorted(RNG.sample(range(40), 13))
    np.save(tmp_path / "few.npy", datacomp([UIDS[row] for row in kept] + ["f" * 32]))
    options = {"embeddings": str(embeddings)}
    curate("keep-list", options | {"source": str(tmp_path / "few.npy")}, tmp_path / "there")
    keep = tmp_path / "there" / "keep.parquet"
    assert pq.read_table(keep)["key"].to_pylist() == [f"k{row}" for row in kept]
    curate("keep-list", options | {"source": str(keep)}, tmp_path / "back")
    back = np.load(tmp_path / "back" / "keep.npy", allow_pickle=False)
    assert back.dtype == np.dtype("u8,u8")
    assert (back == datacomp([UIDS[row] for row in kept])).all()


def test_training_reads_what_is_written(tmp_path: Path) -> None:
    samples = pa.table({"shard": ["a.tar", "b.tar"], "key": ["1", "ü"], "other": [1, 2]})
    path = str(tmp_path / "keep.parquet")
    write_keep_list(Path(path), samples)
    rows = read_rows(path, open_storage(path), ["b.tar", "a.tar"])
    assert rows.shards.tolist() == [1, 0]
    assert rows.keys.to_pylist() == [b"1", "ü".encode()]
    assert rows.weights is None
    write_keep_list(Path(path), samples, np.array([0.5, 2]))
    rows = read_rows(path, open_storage(path), ["b.tar", "a.tar"])
    assert rows.weights is not None
    assert rows.weights.tolist() == [0.5, 2]


def test_uids_are_sorted_and_each_is_there_once(tmp_path: Path) -> None:
    write_uids(tmp_path / "uids.npy", datacomp(UIDS)[::-1].repeat(2))
    assert (read_uids(tmp_path / "uids.npy") == datacomp(UIDS)).all()
    assert (np.sort(uids_of(pa.chunked_array([UIDS[:7], UIDS[7:]]))) == datacomp(UIDS)).all()


@pytest.mark.parametrize("wrong", [None, "", "0" * 31, "0" * 33, "g" * 32, "0" * 32 + "\n"])
def test_a_sample_without_a_uid_is_named(wrong: str | None) -> None:
    with pytest.raises(UserError, match="the sample of row 40 has no uid of 32"):
        uids_of(pa.chunked_array([[*UIDS, wrong]]))


def test_files_that_are_no_lists(embeddings: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "numbers.npy", np.arange(3))
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    np.save(tmp_path / "strange.npy", datacomp(["f" * 32]))
    (tmp_path / "text.parquet").write_text("no")
    pq.write_table(pa.table({"uid": UIDS}), tmp_path / "uids.parquet")
    messages = {
        "numbers.npy": r"^--from .* holds int64 of shape",
        "objects.npy": r"^--from .* is no array of NumPy's, or is damaged$",
        "strange.npy": "no sample of .* is in the set",
        "text.parquet": r"^--from .* is no parquet file",
        "uids.parquet": "is no keep-list",
        "missing.npy": r"^--from .* is missing$",
        "list.txt": r"name a file \.npy",
    }
    for name, message in messages.items():
        options = {"embeddings": str(embeddings), "source": str(tmp_path / name)}
        with pytest.raises(UserError, match=message):
            curate("keep-list", options, tmp_path / "to")
        assert not [path for path in tmp_path.iterdir() if path.name.startswith("to")]
