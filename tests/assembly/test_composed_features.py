"""Cached features of composed queries, of a text side alone, and of images without captions."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.assembly.test_feature_cache import CPU, TOKENIZER, method_of
from tests.recipes import recipe_of
from tests.shard_sets import Members, described, encode, write_shards
from xmodal.assembly.feature_cache import cached_features
from xmodal.assembly.recipe import Recipe
from xmodal.data.batch import Batch, BatchSpec
from xmodal.data.composed import ComposedSet
from xmodal.data.loader import TrainingLoader
from xmodal.data.manifest import Manifest
from xmodal.data.mixture import Mixture
from xmodal.data.reader import SampleReader
from xmodal.data.training_set import DataSet, TrainingSet
from xmodal.data.transforms import ImageTransform

HEADS = ["*.head", "fusion", "classification"]
COMPOSED = BatchSpec(composed=True)
SIZE = 64
WORDS = ("red", "green", "tree", "house")


def images() -> list[bytes]:
    random = np.random.default_rng(0)
    return [encode(random.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for _ in range(5)]


def queries() -> list[dict[str, dict[str, bytes]]]:
    """Two shards of 20 and 3 queries among five images, so that most occur again and again."""
    of = images()
    return [
        {
            f"s{shard}_{n:03d}": {
                "source.png": of[n % 5],
                "target.png": of[(n + 1 + n // 5) % 5],
                "json": described(
                    [],
                    modification=f"a {WORDS[n % 4]} house {n // 4}",
                    source_id=f"i{n % 5}",
                    target_id=f"i{(n + 1 + n // 5) % 5}",
                    members=[f"i{n}" for n in range(5)],
                ),
            }
            for n in range(size)
        }
        for shard, size in enumerate((20, 3))
    ]


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write_shards(tmp_path / "set", queries())


def tirg(folder: Path, **changes: Any) -> Recipe:
    """A recipe of TIRG that trains what comes after the encoders."""
    given = {
        "method__kind": "tirg",
        "method__image__size": SIZE,
        "train": HEADS,
        "stage": {"losses": {"batch_classification": 1}},
    }
    return recipe_of(folder, **given | changes)


def dim(folder: Path) -> Recipe:
    losses = {"batch_classification": 1, "fusion_target": 1}
    return tirg(folder, method__kind="dim", stage={"losses": losses})


def computed(recipe: Recipe, manifest: Manifest, captions: int = 1) -> Manifest:
    method = method_of(recipe)
    return cached_features(
        method, manifest, TOKENIZER, recipe, captions=captions, device=CPU, say=lambda _: None
    )


def members_of(manifest: Manifest) -> set[frozenset[str]]:
    return {frozenset(one.members) for shard in manifest.shards for one in manifest.index(shard)}


def batch_of(manifest: Manifest, contents: BatchSpec = COMPOSED, **transform: Any) -> Batch:
    sizes = [shard.num_samples for shard in manifest.shards]
    mixture = Mixture([sizes], [1], seed=3, lanes=4, window=8)
    dataset = TrainingSet(
        [DataSet(SampleReader(manifest))],
        mixture,
        ImageTransform(SIZE, **transform),
        TOKENIZER,
        seed=3,
        contents=contents,
    )
    return next(
        iter(TrainingLoader(dataset, range(1, 2), batch_size=16, rank=0, ranks=1, workers=0))
    )


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The images that encoders have seen since."""
    from xmodal.models.images.timm_model import TimmEncoder

    seen: list[bytes] = []
    forward = TimmEncoder.forward

    def noted(self: TimmEncoder, pixels: Tensor, **options: bool) -> Any:
        seen.extend(image.numpy().tobytes() for image in pixels)
        return forward(self, pixels, **options)

    monkeypatch.setattr(TimmEncoder, "forward", noted)
    return seen


@pytest.mark.parametrize("recipe_in", [tirg, dim])
def test_features_give_the_queries_and_targets_that_images_give(
    recipe_in: Callable[[Path], Recipe], manifest: Manifest, tmp_path: Path
) -> None:
    recipe = recipe_in(tmp_path)
    method = method_of(recipe)
    features = computed(recipe, manifest)
    lower = {"target.lower.npy"} if recipe.method.kind == "dim" else set()
    assert members_of(features) == {
        frozenset({"json", "source.npy", "target.npy", "text.npy"} | lower)
    }
    with torch.no_grad():
        got, expected = (method.encode(batch_of(one)) for one in (features, manifest))
    fields = {name: value for name, value in vars(expected).items() if isinstance(value, Tensor)}
    assert {"queries", "targets", "image_ids"} <= set(fields)
    assert ("lower" in fields) == bool(lower)
    for name, value in fields.items():
        torch.testing.assert_close(getattr(got, name), value, rtol=1e-4, atol=1e-5)


def test_an_image_of_several_queries_is_encoded_once_a_shard(
    manifest: Manifest, tmp_path: Path, encoded: list[bytes]
) -> None:
    computed(tirg(tmp_path), manifest)
    # Five of the first shard, four of the second, whose three queries have no more.
    assert sorted(Counter(encoded).values()) == [1, 2, 2, 2, 2]


def test_queries_without_a_published_target_have_features(
    manifest: Manifest, tmp_path: Path
) -> None:
    recipe, bare = tirg(tmp_path), queries()
    for shard in bare:
        for members in shard.values():
            del members["target.png"]
    features = computed(recipe, write_shards(tmp_path / "bare", bare))
    assert members_of(features) == {frozenset({"json", "source.npy", "text.npy"})}
    method = method_of(recipe)
    both = [
        ComposedSet(SampleReader(shards), ImageTransform(SIZE), TOKENIZER)[range(23)]
        for shards in (features, manifest)
    ]
    assert both[0].records == both[1].records
    with torch.no_grad():
        got, expected = (method.encode(one.queries).queries for one in both)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("members", "cause"),
    [
        ({"source.png": b"x"}, "image does not decode (not an image)"),
        ({"target.png": b"x"}, "image does not decode (not an image)"),
        ({"json": described([], modification=[" "], target_id="i1")}, "modification is empty"),
    ],
)
def test_a_bad_query_is_met_again_where_it_stands(
    members: Members, cause: str, tmp_path: Path
) -> None:
    broken = queries()
    for sample in broken[0].values():
        sample |= {} if sample is not broken[0]["s0_004"] else members
    manifest = write_shards(tmp_path / "set", broken)
    features = computed(tirg(tmp_path), manifest)
    for shards in (manifest, features):
        read = [SampleReader(shards)[number] for number in range(23)]
        dataset = TrainingSet(
            [DataSet(SampleReader(shards))],
            Mixture([[20, 3]], [1], seed=3, lanes=1, window=8),
            ImageTransform(SIZE),
            TOKENIZER,
            seed=3,
            contents=COMPOSED,
        )
        loader = TrainingLoader(dataset, range(23), batch_size=1, rank=0, ranks=1, workers=0)
        faults = [fault for batch in loader for fault in batch.faults]
        assert [(fault.key, fault.cause) for fault in faults] == [(read[4].key, cause)]


def test_of_a_locked_text_side_images_are_as_they_were(
    manifest: Manifest, tmp_path: Path, encoded: list[bytes]
) -> None:
    """Cropped and flipped each time, while texts are encoded once."""
    recipe = tirg(tmp_path, train=["image", "text.head"])
    features = computed(recipe, manifest)
    assert encoded == []
    assert members_of(features) == {frozenset({"json", "source.png", "target.png", "text.npy"})}
    crops = {"crop": (0.2, 0.9), "flip": True}
    got, expected = (batch_of(shards, **crops) for shards in (features, manifest))
    assert got.images.equal(expected.images)
    assert got.targets.equal(expected.targets)
    assert got.tokens is None
    method = method_of(recipe)
    with torch.no_grad():
        texts = method.text.backbone(expected.tokens, expected.token_mask)
    torch.testing.assert_close(got.text_features, texts, rtol=1e-4, atol=1e-5)


def gallery(folder: Path) -> Manifest:
    samples = {
        f"{n}": {"png": image, "json": described([], image_id=f"i{n}", gallery=True)}
        for n, image in enumerate(images())
    }
    return write_shards(folder, [samples])


def test_images_to_be_found_need_no_captions(tmp_path: Path) -> None:
    features = computed(tirg(tmp_path), gallery(tmp_path / "gallery"), captions=0)
    assert members_of(features) == {frozenset({"json", "image.npy"})}
    records = [sample.record for sample in SampleReader(features).load(range(5))]
    assert [one["image_id"] for one in records] == [f"i{n}" for n in range(5)]


def test_of_a_trained_image_side_there_is_nothing_to_cache(tmp_path: Path) -> None:
    images = gallery(tmp_path / "gallery")
    recipe = tirg(tmp_path, train=["image", "text.head"])
    assert computed(recipe, images, captions=0) is images
    assert not (tmp_path / "cache").exists()
