"""Images within parquet, and tables in several parts."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import webdataset

from shards.build import build
from shards.files import Skipped
from shards.sources.pairs import parquet
from tests.pair_tables import causes, fails, splits, train, write

# -- images within parquet --


def within(path: Path, rows: Sequence[dict], row_group_size: int = 4) -> Path:
    import pyarrow as pa
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=row_group_size)
    return path


def hub_rows(encode: Callable[..., bytes], count: int, first: int = 0) -> list[dict]:
    """Rows as Hugging Face's `datasets` writes them; file names begin anew in each part."""
    return [
        {
            "image": {"bytes": encode(colour=f"hsl({n * 7},90%,50%)"), "path": f"{n - first}.jpg"},
            "text": f"n {n}",
        }
        for n in range(first, first + count)
    ]


def test_images_within_parquet_are_built(tmp_path: Path, encode: Callable[..., bytes]) -> None:
    rows = hub_rows(encode, 10) + hub_rows(encode, 2)  # two come twice, with other captions
    rows[11]["text"] = "again"
    rows.append({"image": {"bytes": None, "path": None}, "text": "no image"})
    rows.append({"image": {"bytes": b"<html>", "path": "x.jpg"}, "text": "no image"})
    table = within(tmp_path / "data/a.parquet", rows)
    for to, workers in (("one", 1), ("two", 2)):
        build("pairs", tmp_path / to, table, samples_per_shard=3, workers=workers)
    shards = sorted((tmp_path / "one/train").glob("*.tar"))
    assert [s.read_bytes() for s in shards] == [
        (tmp_path / "two/train" / s.name).read_bytes() for s in shards
    ]
    samples = list(webdataset.WebDataset([str(s) for s in shards], shardshuffle=False))
    assert [sample["jpg"] for sample in samples] == [row["image"]["bytes"] for row in rows[:10]]
    said = [json.loads(sample["json"]) for sample in samples]
    assert [each["captions"] for each in said[:3]] == [["n 0", "n 0"], ["n 1", "again"], ["n 2"]]
    assert said[9]["image_id"] == "a.parquet:10"
    skipped = [json.loads(p.read_text()) for p in (tmp_path / "one/train").glob("*.skipped.json")]
    assert sorted(cause for file in skipped for _, cause, _ in file) == [
        *("image does not decode (not an image)", "no image")
    ]


def test_img2datasets_parquet(tmp_path: Path, encode: Callable[..., bytes]) -> None:
    for part in range(2):
        rows = [
            {"key": f"{n}", "caption": f"n {n}", "status": "success", "jpg": encode(colour=c)}
            for n, c in enumerate(["red", "blue"], 2 * part)
        ]
        rows[part]["jpg"] = None if part else encode(colour="green")
        within(tmp_path / f"{part:05d}.parquet", rows)
        write(tmp_path / f"{part:05d}_stats.json", '{"count": 2}')
    assert train(tmp_path) == {
        "00000.parquet:1": ["n 0"],
        "00000.parquet:2": ["n 1"],
        "00001.parquet:1": ["n 2"],
    }
    assert causes(tmp_path) == [("00001.parquet:2", "no image", "00001.parquet:2")]


def test_parts_of_a_split_are_one_table(tmp_path: Path, encode: Callable[..., bytes]) -> None:
    for part in range(2):
        name = f"data/train-{part:05d}-of-00002-0123abcd.parquet"
        within(tmp_path / name, hub_rows(encode, 3, first=3 * part))
    within(tmp_path / "data/test-00000-of-00001.parquet", hub_rows(encode, 2, first=20))
    write(tmp_path / "dataset_infos.json", "{}")
    found = splits(tmp_path)
    assert {name: len(split.items) for name, split in found.items()} == {"test": 2, "train": 6}
    assert [item.captions[0] for item in found["train"].items] == [f"n {n}" for n in range(6)]
    (tmp_path / "data/train-00001-of-00002-0123abcd.parquet").unlink()
    assert fails(tmp_path) == (
        f"{tmp_path}/data has 1 of the 2 parts of train (no train-00001-of-00002-0123abcd.parquet)"
        ": add the others, or name one by --from to build it alone"
    )


def test_a_path_in_place_of_bytes_is_a_file(images: Path) -> None:
    rows = [{"image": {"bytes": None, "path": "img/0.jpg"}, "text": "a dog"}]
    rows.append({"image": {"bytes": b"x", "path": "img/1.png"}, "text": "a cat"})
    assert list(train(within(images / "a.parquet", rows))) == ["img/0.jpg", "a.parquet:2"]


def test_a_table_that_changes_meanwhile(tmp_path: Path, encode: Callable[..., bytes]) -> None:
    table = within(tmp_path / "a.parquet", hub_rows(encode, 3))
    picture = splits(table)["train"].items[1].picture
    within(table, hub_rows(encode, 3, first=1))
    with pytest.raises(Skipped, match="the table has changed"):
        picture()
    within(table, hub_rows(encode, 1))
    parquet._open.cache_clear()
    with pytest.raises(Skipped, match="the table cannot be read"):
        picture()


def test_images_within_parquet_are_read_in_any_order(
    tmp_path: Path, encode: Callable[..., bytes]
) -> None:
    rows = hub_rows(encode, 90)
    table = within(tmp_path / "a.parquet", rows, row_group_size=40)
    pictures = [item.picture for item in splits(table)["train"].items]
    for number in (0, 39, 5, 40, 89, 41, 88, 1, 33, 32, 31):
        assert pictures[number]() == rows[number]["image"]["bytes"]


def test_an_image_may_stand_alone_in_a_list(tmp_path: Path, encode: Callable[..., bytes]) -> None:
    data = encode()
    lists: dict[str, list] = {
        "structs": [[{"bytes": data, "path": "a"}], [{"bytes": data, "path": "a"}] * 2],
        "bytes": [[data], [data, data]],
        "numbers": [list(data), list(data)],
    }
    for name, column in lists.items():
        rows = [{"image": one, "text": f"n {n}"} for n, one in enumerate(column)]
        table = within(tmp_path / f"{name}.parquet", rows)
        faults = [cause for _, cause, _ in causes(table)]
        if name == "numbers":
            assert faults == ["image is a list of numbers, not bytes"] * 2
        else:
            assert faults == ["several images"]
            (item,) = splits(table)["train"].items
            assert item.picture() == data


# -- a few kilobytes that stand for gigabytes --


def repeated(path: Path, size: int, rows: int, encoding: str) -> Path:
    """A table whose rows all have the same image of `size` bytes, and each a caption."""
    import pyarrow as pa
    from pyarrow import parquet

    images = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), [bytes(size)])
    if encoding != "dictionary":
        images = images.dictionary_decode()
    table = pa.table({"image": images, "text": [f"n {n}" for n in range(rows)]})
    options = {"use_dictionary": True, "dictionary_pagesize_limit": 2**30}
    if encoding == "shared prefixes":
        options = {"use_dictionary": False, "column_encoding": {"image": "DELTA_BYTE_ARRAY"}}
    parquet.write_table(
        table, path, compression="zstd", data_page_size=2**30, store_schema=False, **options
    )
    assert path.stat().st_size < 5_000
    return path


@pytest.mark.parametrize("encoding", ["dictionary", "shared prefixes"])
def test_a_row_too_large_costs_itself(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = repeated(tmp_path / "a.parquet", 2**20, 3, encoding)
    assert causes(table) == []
    monkeypatch.setattr(parquet, "_MAX_CHUNK_RATIO", 2**30)
    monkeypatch.setattr(parquet, "MAX_SAMPLE_BYTES", 2**20)
    assert [cause for _, cause, _ in causes(table)] == ["row over 1,048,576 bytes"] * 3


@pytest.mark.parametrize("encoding", ["dictionary", "shared prefixes"])
def test_a_bomb_is_refused_after_a_bounded_part(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = repeated(tmp_path / "a.parquet", 2**22, 64, encoding)
    monkeypatch.setattr(parquet, "_MAX_TABLE_BYTES", 2**24)
    read = []
    monkeypatch.setattr(parquet, "_digest", lambda data: read.append(len(data)) or "0")
    assert fails(table).startswith(f"{table} is refused: its first 4 rows alone decode to far more")
    assert read == [2**22] * 3


def test_no_more_than_a_row_is_decoded_at_a_time(tmp_path: Path) -> None:
    import pyarrow as pa

    table = repeated(tmp_path / "a.parquet", 2**22, 64, "dictionary")
    before = pa.total_allocated_bytes()
    for _ in parquet.read_parquet(table, lambda _: {"image": "image", "caption": "text"}):
        assert pa.total_allocated_bytes() - before < 2**22 * 6


def test_a_chunk_that_says_it_is_a_bomb_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = repeated(tmp_path / "a.parquet", 2**23, 2, "dictionary")
    monkeypatch.setattr(parquet, "MAX_SAMPLE_BYTES", 2**22)
    assert fails(table).startswith(f"{table} is refused: 2 values of its column image decode to ")
    lists = within(tmp_path / "b.parquet", [{"image": [None] * 300, "text": "a"}])
    monkeypatch.setattr(parquet, "_MAX_CHUNK_VALUES", 299)
    assert "300 values of its column image.list.element decode" in fails(lists)
