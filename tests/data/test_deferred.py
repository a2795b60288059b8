"""Views that loading processes draw and a device makes are those that they would have made."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.data.augmentations.pictures import picture
from tests.recipes import recipe_of
from tests.shard_sets import encode, numbered, write_shards
from tests.training_sets import TOKENIZER, assert_same, batches, mixture_of, training_set
from xmodal.assembly import data as assembled
from xmodal.data import deferred
from xmodal.data.augmentations.colour import Colour
from xmodal.data.batch import PAIRS, BatchSpec
from xmodal.data.deferred import Deferred, can_defer
from xmodal.data.manifest import Manifest

CROP = (0.2, 0.9)


def negative(image: Tensor, _: np.random.Generator) -> Tensor:
    """An augmentation that knows one image at a time."""
    return 255 - image


@pytest.fixture
def shards(tmp_path: Path) -> Manifest:
    """Images of which every crop differs; one cannot be used."""
    random = np.random.default_rng(0)
    samples = {
        key: members | {"png": encode(random.integers(256, size=(24, 30, 3), dtype=np.uint8))}
        for key, members in numbered(24).items()
    }
    samples["00003"] |= {"png": b"not an image"}
    return write_shards(tmp_path, [samples])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("flip", "augment"), [(True, Colour()), (False, Colour()), (True, None)])
def test_views_are_those_of_loading_processes(
    shards: Manifest, flip: bool, augment: Colour | None, workers: int
) -> None:
    given = {"contents": BatchSpec(views=2), "crop": CROP, "lanes": 6}
    here = training_set(shards, flip=flip, augment=augment, **given)
    there = training_set(shards, flip=False, deferred=Deferred(flip, augment), **given)
    pairs = zip(
        batches(here, range(3), workers=workers),
        batches(there, range(3), workers=workers),
        strict=True,
    )
    for wanted, drawn in pairs:
        assert not drawn.images.equal(wanted.images)
        assert_same(there.augmented(drawn), wanted)
        parts = [there.augmented(part) for part in drawn.cut(5)]
        assert torch.cat([part.second_images for part in parts]).equal(wanted.second_images)


def test_a_batch_without_draws_is_left_as_it_is(shards: Manifest) -> None:
    dataset = training_set(shards)
    (batch,) = batches(dataset, range(1))
    assert dataset.augmented(batch) is batch


def test_a_large_batch_is_changed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.stack([picture(24, seed) for seed in range(7)])
    both = Deferred(True, Colour())
    drawn = torch.from_numpy(np.stack([both.draw(np.random.default_rng(n)) for n in range(7)]))
    whole = both.apply(images, drawn)
    monkeypatch.setattr(deferred, "PIXELS_AT_ONCE", 3 * 3 * 24 * 24)
    assert both.apply(images, drawn).equal(whole)


@pytest.mark.parametrize(
    ("flip", "augment", "defers"),
    [
        (True, Colour(), True),
        (False, Colour(), True),
        (True, None, True),
        (False, None, False),
        (True, negative, False),  # the flip comes first
    ],
)
def test_only_what_knows_batches_is_deferred(flip: bool, augment: object, defers: bool) -> None:
    assert can_defer(flip, augment) is defers  # type: ignore[arg-type]


@pytest.mark.parametrize("defer", [False, True])
def test_a_recipe_defers_where_a_gpu_trains(tmp_path: Path, defer: bool) -> None:
    shards = write_shards(tmp_path / "set", [numbered(12)])
    recipe = recipe_of(tmp_path, data__augment={}, data__flip=True)
    opened, order = assembled.Shards([shards]), mixture_of(shards)
    found = assembled.training_set(recipe, opened, order, TOKENIZER, PAIRS, defer=defer).transform
    at_once = replace(found, flip=True, augment=Colour(), deferred=None)
    later = replace(found, flip=False, augment=None, deferred=Deferred(True, Colour()))
    assert found == (later if defer else at_once)
