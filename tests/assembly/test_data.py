"""Data sets of a recipe as training reads them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.recipes import recipe_of
from tests.shard_sets import numbered, write_shards
from xmodal.assembly.data import data_sets, open_shards
from xmodal.data.samples import hash_id
from xmodal.errors import UserError


def test_each_data_set_has_the_duplicates_that_it_names(tmp_path: Path) -> None:
    write_shards(tmp_path / "set", [numbered(4)])
    pq.write_table(pa.table({"group": [0, 0], "image_id": ["a", "b"]}), tmp_path / "g.parquet")
    url = str(tmp_path / "set")
    train = [{"url": url, "duplicates": str(tmp_path / "g.parquet"), "weight": 1.0}]
    recipe = recipe_of(tmp_path, data__train=[*train, {"url": url, "weight": 1.0}])
    one, other = data_sets(recipe, open_shards(recipe))
    assert one.duplicates == {hash_id("a"): hash_id("a"), hash_id("b"): hash_id("a")}
    assert other.duplicates == {}
    with pytest.raises((UserError, ValueError), match="duplicates are of images"):
        recipe_of(tmp_path, data__train=train, data__positives="caption")
