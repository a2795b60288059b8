"""Images that a table says are duplicates: they have one id in training."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.shard_sets import described, encode, plain, write_shards
from tests.training_sets import batches, numbers_of, training_set
from xmodal.data.duplicates import read_duplicates
from xmodal.data.image_records import image_record
from xmodal.data.reader import SampleReader
from xmodal.data.samples import hash_id
from xmodal.errors import UserError

NOT_THEIRS = "name the groups.parquet of `curate duplicates`, with columns group and image_id"


def write(path: Path, groups: list[int], ids: list[str]) -> str:
    pq.write_table(pa.table({"group": groups, "image_id": ids, "kept": [True] * len(ids)}), path)
    return str(path)


def test_groups_share_an_id_also_through_an_image_of_both(tmp_path: Path) -> None:
    file = write(tmp_path / "g.parquet", [0, 0, 1, 1, 2, 2, 3], ["a", "b", "c", "d", "b", "c", "e"])
    found = read_duplicates(file)
    assert {found[hash_id(one)] for one in "abcd"} == {hash_id("a")}
    assert found[hash_id("e")] == hash_id("e")
    assert hash_id("f") not in found


def test_batches_have_the_ids_of_groups(tmp_path: Path) -> None:
    samples = {
        f"{n:05d}": {"png": encode(plain(n)), "json": described(["1"], image_id=f"i{n}")}
        for n in range(24)
    }
    manifest = write_shards(tmp_path / "set", [samples])
    file = write(tmp_path / "g.parquet", [0, 0, 1, 1], ["i3", "i9", "i20", "i21"])
    dataset = training_set(manifest, options=[{"duplicates": read_duplicates(file)}])
    same = {9: 3, 21: 20}
    for batch in batches(dataset, range(2)):
        wanted = [hash_id(f"i{same.get(n, n)}") for n in numbers_of(batch)]
        assert batch.image_ids.tolist() == wanted


def test_images_without_ids_are_named_by_their_shard(tmp_path: Path) -> None:
    samples = {f"k{n}": {"png": encode(plain(n)), "json": described(["1"])} for n in range(24)}
    manifest = write_shards(tmp_path / "set", [samples])
    reader = SampleReader(manifest)
    names = [image_record(reader[n])["image_id"] for n in (4, 8)]
    same = read_duplicates(write(tmp_path / "g.parquet", [0, 0], names))
    dataset = training_set(manifest, options=[{"duplicates": same}])
    rows = [
        row
        for batch in batches(dataset, range(2))
        for row in zip(numbers_of(batch), batch.image_ids.tolist(), strict=True)
    ]
    ids = dict(rows)
    assert ids[4] == ids[8]
    assert len(set(ids.values())) == len(ids) - 1


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"shard": ["s"], "key": ["k"]}, "has no such column group, but shard, key"),
        ({"group": [0], "key": ["k"]}, "has no such column image_id"),
        ({"group": ["0"], "image_id": ["k"]}, "has no such column group"),
        ({"group": [0], "image_id": pa.array([None], pa.string())}, "a row has no image_id"),
    ],
)
def test_a_table_of_something_else_is_refused(columns: dict, message: str, tmp_path: Path) -> None:
    pq.write_table(pa.table(columns), tmp_path / "g.parquet")
    with pytest.raises(UserError, match=message) as error:
        read_duplicates(str(tmp_path / "g.parquet"))
    assert NOT_THEIRS in str(error.value)


def test_a_file_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is missing"):
        read_duplicates(str(tmp_path / "none.parquet"))
    (tmp_path / "g.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match="no parquet file"):
        read_duplicates(str(tmp_path / "g.parquet"))
