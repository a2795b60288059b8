"""Mined captions and images beside samples, by the table that curation writes."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.keep_lists import write_keep_list
from tests.shard_sets import described, encode, number_of, plain, write_shards
from tests.training_sets import batches, npy, numbers_of, training_set
from xmodal.data.config import NegativesConfig
from xmodal.data.extra_items import NONE, MinedItems, text_id
from xmodal.data.keep_list import keep_only
from xmodal.data.manifest import Manifest
from xmodal.data.mined_table import read_mined
from xmodal.data.samples import hash_id
from xmodal.errors import UserError
from xmodal.search.curation.mine import SCHEMA

SIZES = (20, 11)
Place = tuple[str, str]


def key_of(number: int) -> str:
    return f"{number:05d}"


def samples(numbers: range, *, features: bool = False) -> dict[str, dict[str, bytes]]:
    image = {True: "image.npy", False: "png"}[features]
    return {
        key_of(number): {
            image: npy(np.full(3, number, np.float32)) if features else encode(plain(number)),
            "json": described([f"{number} {number}"], image_id=f"i{number}"),
        }
        for number in numbers
    }


@pytest.fixture
def shards(tmp_path: Path) -> Manifest:
    return write_shards(tmp_path / "shards", [samples(range(20)), samples(range(20, 31))])


def places(manifest: Manifest) -> list[Place]:
    names = [shard.name for shard in manifest.shards]
    return [(names[number >= 20], key_of(number)) for number in range(31)]


def write_table(path: Path, rows: list[tuple[Place, list[Place], list[Place]]]) -> str:
    def items(wanted: list[Place]) -> list[dict[str, object]]:
        return [{"shard": shard, "key": key, "score": 0.5} for shard, key in wanted]

    table = [
        {"shard": shard, "key": key, "score": 1.0, "texts": items(texts), "images": items(images)}
        for (shard, key), texts, images in rows
    ]
    pq.write_table(pa.Table.from_pylist(table, SCHEMA), path)
    return str(path)


def test_a_table_gives_the_first_items_that_the_set_has(tmp_path: Path, shards: Manifest) -> None:
    at = places(shards)
    stranger = ("other.tar", key_of(1))
    url = write_table(
        tmp_path / "hard.parquet",
        [
            (at[25], [stranger, at[3], at[30], at[4]], [at[1]]),
            (at[2], [], [at[7], at[8]]),
            (stranger, [at[5]], [at[5]]),
        ],
    )
    mined = read_mined(url, shards, 2, 1)
    assert mined.texts.shape == (31, 2)
    assert mined.texts[25].tolist() == [3, 30]
    assert mined.images[[25, 2]].tolist() == [[1], [7]]
    mined.texts[25], mined.images[[25, 2]] = NONE, NONE
    assert (mined.texts == NONE).all()
    assert (mined.images == NONE).all()


def test_numbers_are_those_of_the_samples_that_are_kept(tmp_path: Path, shards: Manifest) -> None:
    at = places(shards)
    url = write_table(
        tmp_path / "hard.parquet", [(at[25], [at[3], at[30]], []), (at[1], [at[2]], [])]
    )
    kept = [at[number] for number in (3, 22, 25, 30)]
    keep = write_keep_list(tmp_path / "keep.parquet", kept)
    mined = read_mined(url, keep_only(shards, str(keep)), 2, 0)
    assert mined.texts.tolist() == [[NONE, NONE], [NONE, NONE], [0, 3], [NONE, NONE]]


@pytest.mark.parametrize("wrong", ["missing", "not parquet", "other columns", "of another set"])
def test_what_is_no_such_table_is_refused(tmp_path: Path, shards: Manifest, wrong: str) -> None:
    path = tmp_path / "hard.parquet"
    if wrong == "not parquet":
        path.write_bytes(b"no")
    elif wrong == "other columns":
        pq.write_table(pa.table({"shard": ["a"], "key": ["b"]}), path)
    elif wrong == "of another set":
        write_table(path, [(("other.tar", "1"), [], [])])
    with pytest.raises(UserError, match=r"hard\.parquet .*xmodal curate mine"):
        read_mined(str(path), shards, 1, 1)


def test_a_table_without_any_item_that_is_asked_for_is_refused(
    tmp_path: Path, shards: Manifest
) -> None:
    at = places(shards)
    url = write_table(tmp_path / "hard.parquet", [(at[1], [], [at[2]])])
    assert read_mined(url, shards, 0, 1).images[1].tolist() == [2]
    with pytest.raises(UserError, match=r"no texts .*remove data\.negatives\.mined_texts"):
        read_mined(url, shards, 1, 1)


def mined_of(shift: int) -> MinedItems:
    """Of each sample the one `shift` later; of every fifth one none."""
    numbers = (np.arange(31)[:, None] + shift) % 31
    numbers[::5] = NONE
    return MinedItems(numbers, (numbers + 1) % 31 - (numbers == NONE) * 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_captions_and_images_are_those_of_the_samples_mined(shards: Manifest, workers: int) -> None:
    counts = NegativesConfig(mined_texts=1, mined_images=1)
    mined = mined_of(9)
    dataset = training_set(shards, negatives=counts, options=[{"mined": mined}])
    for batch in batches(dataset, range(4), workers=workers):
        for row, number in enumerate(numbers_of(batch)):
            other = int(mined.texts[number, 0])
            other = number if other == NONE else other
            assert batch.extra_text_ids[row].tolist() == [text_id(f"{other} {other}")]
            origin = text_id(f"{number} {number}") if other == number else hash_id(f"i{other}")
            assert batch.extra_text_origins[row].tolist() == [origin]
            picture = int(mined.images[number, 0])
            picture = number if picture == NONE else picture
            assert number_of(batch.extra_images[row, 0]) == picture
            assert batch.extra_image_ids[row].tolist() == [hash_id(f"i{picture}")]


def test_written_texts_come_before_mined_ones(shards: Manifest) -> None:
    counts = NegativesConfig(texts=1, mined_texts=1)
    dataset = training_set(shards, negatives=counts, options=[{"mined": mined_of(9)}])
    (batch,) = batches(dataset, range(1))
    assert batch.extra_tokens.shape[:2] == (12, 2)
    numbers = torch.tensor(numbers_of(batch))
    mined = numbers % 5 != 0
    ids = torch.tensor([text_id(f"{n} {n}") for n in ((numbers + 9) % 31).tolist()])
    assert batch.extra_text_ids[mined, 0].equal(ids[mined])  # nothing can be written of numbers


def test_features_of_images_are_taken_where_the_set_has_them(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "features", [samples(range(31), features=True)])
    counts = NegativesConfig(mined_images=1)
    mined = mined_of(9)
    dataset = training_set(shards, negatives=counts, options=[{"mined": mined}])
    (batch,) = batches(dataset, range(1))
    own, beside = batch.image_features[:, 0].int(), batch.extra_image_features[:, 0, 0].int()
    expected = torch.from_numpy(mined.images[own, 0]).int()
    assert beside.equal(torch.where(expected == NONE, own, expected))
