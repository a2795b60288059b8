"""A recipe's length buckets: lengths are asked for before training, and its texts are followed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.recipes import recipe_of
from tests.shard_sets import described, encode, plain, with_lengths, write_shards
from xmodal.assembly.checks import check_shards
from xmodal.assembly.data import mixture, open_shards
from xmodal.assembly.recipe import Recipe
from xmodal.data.manifest import Manifest
from xmodal.errors import UserError


def shards(folder: Path) -> Manifest:
    """Captions that grow with the sample's number, and Chinese ones that shrink."""
    samples = {
        f"{n:05d}": {
            "png": encode(plain(n)),
            "json": described(["a" * (n + 1)], zh=["狗" * (40 - n)]),
        }
        for n in range(40)
    }
    return write_shards(folder, [samples])


def bucketed(folder: Path, **data_set: Any) -> Recipe:
    changes = {
        "data__train": [{"url": str(folder / "set"), **data_set}],
        "data__length_buckets": True,
        "data__feature_cache": None,
        "data__batch_size": 8,
        "data__lanes": 1,
    }
    return recipe_of(folder, **changes)


def test_shards_without_lengths_are_one_line(tmp_path: Path) -> None:
    manifest = shards(tmp_path / "set")
    recipe = bucketed(tmp_path)
    with pytest.raises(UserError) as error:
        check_shards(recipe, open_shards(recipe), 1)
    assert str(error.value) == (
        f"data.length_buckets needs the lengths of texts, and {tmp_path}/set/set-000000.lengths is "
        f"missing: run `python -m shards lengths {tmp_path}/set`"
    )
    with_lengths(manifest)
    check_shards(recipe, open_shards(recipe), 1)


@pytest.mark.parametrize("key", ["captions", "zh"])
def test_batches_are_of_like_length_in_the_texts_that_are_drawn(key: str, tmp_path: Path) -> None:
    with_lengths(shards(tmp_path / "set"))
    recipe = bucketed(tmp_path, texts={key: 1.0})
    order = mixture(recipe, open_shards(recipe))
    starts = [0]
    while starts[-1] < 40:
        starts.append(starts[-1] + len(order.stretch_from(starts[-1]).samples))
    start = max(starts[:-1], key=lambda one: len(order.stretch_from(one).samples))
    stretch = order.stretch_from(start)
    assert len(stretch.samples) > 16
    assert order.buckets is not None
    targets = order.buckets._targets(start + np.arange(len(stretch.samples)))
    by_target = stretch.samples[np.argsort(targets, kind="stable")].tolist()
    assert by_target == sorted(by_target, reverse=key == "zh")


def test_without_them_the_order_is_the_plans(tmp_path: Path) -> None:
    shards(tmp_path / "set")
    recipe = recipe_of(tmp_path, data__batch_size=8)
    assert mixture(recipe, open_shards(recipe)).buckets is None
