import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.keep_lists import Named, write_keep_list
from tests.processes import on_ranks
from tests.recipes import SIZE, recipe_of
from tests.shard_sets import described, encode, write_shards
from xmodal.assembly import feature_shards as module
from xmodal.assembly.build import build_method
from xmodal.assembly.data import evaluation_transform
from xmodal.assembly.feature_cache import cached_features, locked_sides
from xmodal.assembly.feature_encoding import LockedSides
from xmodal.assembly.recipe import Recipe
from xmodal.data.config import NegativesConfig
from xmodal.data.keep_list import keep_only
from xmodal.data.loader import TrainingLoader
from xmodal.data.manifest import Manifest, read_manifest, write_manifest
from xmodal.data.mixture import Mixture
from xmodal.data.reader import SampleReader
from xmodal.data.shard_index import write_index
from xmodal.data.tokenizers.byte_pair import train_tokenizer
from xmodal.data.training_set import DataSet, TrainingSet
from xmodal.data.transforms import ImageTransform
from xmodal.errors import UserError
from xmodal.evaluation.embedding import embed
from xmodal.evaluation.gallery import Gallery
from xmodal.evaluation.report.examples import load_examples
from xmodal.evaluation.retrieval import Retrieval, evaluate_retrieval, evaluation_set
from xmodal.methods.method import Method

TOKENIZER = train_tokenizer(["a red house and a green tree"], 16, vocabulary=300)
CPU = torch.device("cpu")
Shards = list[dict[str, dict[str, bytes]]]


def shards() -> Shards:
    """Three shards of 20, 17 and 3 samples with one to three captions each."""
    random = np.random.default_rng(0)
    return [
        {
            f"s{shard}_{number:03d}": {
                "jpg": encode(random.integers(0, 256, (40, 50, 3), dtype=np.uint8), "JPEG"),
                "json": described(
                    [f"{word} house {number}" for word in ("a", "red", "green")[: 1 + number % 3]],
                    image_id=f"{shard}-{number}",
                    labels=[f"class {number % 3}"],
                    false_captions=[["a green tree"], ["a tree"], ["a red tree"]][: 1 + number % 3],
                ),
            }
            for number in range(size)
        }
        for shard, size in enumerate((20, 17, 3))
    ]


def with_bad_samples() -> Shards:
    broken = shards()
    broken[0]["s0_004"]["jpg"] = b"no image"
    broken[1]["s1_000"]["json"] = b'{"captions": ["\xff"]}'
    broken[2]["s2_001"]["jpg"] = b""
    return broken


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write_shards(tmp_path / "set", shards())


def local_recipe(folder: Path, **changes: Any) -> Recipe:
    """A recipe of a method that reads the words of texts and, here, four positions of images."""
    stage = {"losses": {"hardest": 1}}
    parts = {"method__kind": "pvse", "method__image__size": 64, "stage": stage}
    return recipe_of(folder, **parts | {"train": ["image.head", "text.head", "*.pie"]} | changes)


def method_of(recipe: Recipe) -> Method:
    return build_method(recipe, TOKENIZER.vocabulary, CPU).eval()


def computed(recipe: Recipe, manifest: Manifest, said: list[str] | None = None) -> Manifest:
    return cached_features(
        method_of(recipe),
        manifest,
        TOKENIZER,
        recipe,
        device=CPU,
        say=(said if said is not None else []).append,
    )


@torch.no_grad()
def gallery_of(recipe: Recipe, manifest: Manifest, batch_size: int = 7) -> Gallery:
    dataset = evaluation_set(manifest, evaluation_transform(recipe), TOKENIZER)
    gallery, _ = embed(method_of(recipe), dataset, batch_size, device=CPU, workers=0)
    return gallery


def equal_files(gallery: Gallery) -> Tensor:
    """Return which images have equal files, (images, images)."""
    assert gallery.digests is not None
    return gallery.digests[:, None] == gallery.digests


def assert_same_gallery(got: Gallery, expected: Gallery) -> None:
    assert got.labels == expected.labels
    assert equal_files(got).equal(equal_files(expected))
    for name, value in vars(expected).items():
        if isinstance(value, Tensor) and name != "digests":  # other files: features
            torch.testing.assert_close(getattr(got, name), value, rtol=1e-4, atol=1e-5)


@pytest.fixture
def no_encoding(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, encoding an image or a caption is an error."""

    def forbid() -> None:
        def fail(*_: object) -> None:
            raise AssertionError("encoded again")

        monkeypatch.setattr("xmodal.models.images.timm_model.TimmEncoder.forward", fail)
        monkeypatch.setattr("xmodal.models.texts.transformer.Transformer.forward", fail)

    return forbid


@pytest.mark.parametrize(
    ("train", "members"),
    [
        (["image.head", "text.head", "loss"], {"json", "image.npy", "text.npy"}),
        (["image.head", "text"], {"json", "image.npy"}),
        (["image", "text.head"], {"json", "jpg", "text.npy"}),
    ],
)
def test_features_give_the_embeddings_that_the_images_give(
    train: list[str], members: set[str], manifest: Manifest, tmp_path: Path
) -> None:
    recipe = recipe_of(tmp_path, train=train)
    features = computed(recipe, manifest)
    assert [shard.num_samples for shard in features.shards] == [20, 17, 3]
    assert {frozenset(one.members) for s in features.shards for one in features.index(s)} == {
        frozenset(members)
    }
    assert_same_gallery(gallery_of(recipe, features), gallery_of(recipe, manifest))


@pytest.mark.parametrize("recipe_in", [recipe_of, local_recipe])
def test_training_draws_the_same_captions_of_the_same_images(
    recipe_in: Callable[[Path], Recipe], manifest: Manifest, tmp_path: Path
) -> None:
    recipe = recipe_in(tmp_path)
    method = method_of(recipe)
    negatives = NegativesConfig(texts=2) if recipe.method.kind == "clip" else None

    def batch(shards: Manifest) -> Any:
        sizes = [shard.num_samples for shard in shards.shards]
        mixture = Mixture([sizes], [1], seed=3, lanes=4, window=8)
        data_sets = [DataSet(SampleReader(shards))]
        dataset = TrainingSet(
            data_sets,
            mixture,
            ImageTransform(recipe.method.image.size),
            TOKENIZER,
            seed=3,
            negatives=negatives,
        )
        loader = TrainingLoader(dataset, range(1, 2), batch_size=24, rank=0, ranks=1, workers=0)
        return next(iter(loader))

    with torch.no_grad():
        got, expected = (
            method.encode(batch(one)) for one in (computed(recipe, manifest), manifest)
        )
    torch.testing.assert_close(got.images, expected.images, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.texts, expected.texts, rtol=1e-4, atol=1e-5)
    assert torch.equal(got.image_ids, expected.image_ids)
    if negatives:
        torch.testing.assert_close(got.extra_texts, expected.extra_texts, rtol=1e-4, atol=1e-5)
        assert torch.equal(got.extra_text_ids, expected.extra_text_ids)
        assert not torch.equal(got.extra_text_ids[:, 0], got.text_ids)


def test_features_are_computed_once(
    manifest: Manifest, tmp_path: Path, no_encoding: Callable[[], None]
) -> None:
    recipe, said = recipe_of(tmp_path), list[str]()
    first = computed(recipe, manifest, said)
    once = len(said)
    assert said[-1] == f"features of {manifest.num_samples} of {manifest.num_samples} samples"
    no_encoding()
    other_heads = recipe_of(tmp_path, method__embedding=4, data__batch_size=32)
    assert computed(other_heads, manifest, said) == first
    assert len(said) == once


def test_features_of_a_keep_list_are_of_its_samples_whatever_their_weights(
    manifest: Manifest, tmp_path: Path, no_encoding: Callable[[], None]
) -> None:
    recipe, path = recipe_of(tmp_path), tmp_path / "keep.parquet"

    def kept(named: list[Named], weights: list[float] | None = None) -> Manifest:
        return keep_only(manifest, str(write_keep_list(path, named, weights)))

    named = [(shard.name, one.key) for shard in manifest.shards for one in manifest.index(shard)]
    some = [*named[3:20:2], *named[38:]]
    features = computed(recipe, kept(some))
    assert [shard.num_samples for shard in features.shards] == [9, 2]
    assert_same_gallery(gallery_of(recipe, features), gallery_of(recipe, kept(some)))
    assert computed(recipe, kept(some[1:])).url != features.url
    no_encoding()
    assert computed(recipe, kept(some, [0.5] * len(some))) == features


def test_what_an_interrupted_run_has_written_is_kept(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(tmp_path)
    write, written = module._write_shard, list[str]()

    def interrupted(path: Path, *rest: Any) -> Any:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path.name)
        return write(path, *rest)

    monkeypatch.setattr(module, "_write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        computed(recipe, manifest)
    assert written == ["features-000000.tar", "features-000001.tar"]
    (folder,) = (tmp_path / "cache").iterdir()
    # One without its index, as when the process died between the two.
    (folder / "features-000001.idx").unlink()
    times = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
    assert not (folder / "shardindex.json").exists()

    monkeypatch.setattr(module, "_write_shard", write)
    assert_same_gallery(
        gallery_of(recipe, computed(recipe, manifest)), gallery_of(recipe, manifest)
    )
    again = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
    assert again["features-000000.tar"] == times["features-000000.tar"]
    assert again["features-000001.tar"] > times["features-000001.tar"]
    assert not list(folder.glob("*.part*"))


def folder_of(recipe: Recipe, manifest: Manifest) -> str:
    return computed(recipe, manifest).url


@pytest.mark.parametrize(
    "changes",
    [
        {"method__image__size": 40},
        {"method__image__name": "test_efficientnet"},
        {"method__text__layers": 2},
        {"training__seed": 1},
        {"training__precision": "bf16"},
        {"train": ["image.head", "text"]},
    ],
    ids="".join,
)
def test_other_features_lie_in_another_folder(
    changes: dict[str, Any], manifest: Manifest, tmp_path: Path
) -> None:
    before = folder_of(recipe_of(tmp_path), manifest)
    assert folder_of(recipe_of(tmp_path, **changes), manifest) != before


@pytest.mark.parametrize(
    "changes", [{"training__precision": "fp32"}, {"train": ["*.head"]}], ids="".join
)
def test_what_features_do_not_depend_on_leaves_them(
    changes: dict[str, Any], manifest: Manifest, tmp_path: Path
) -> None:
    before = folder_of(recipe_of(tmp_path), manifest)
    assert folder_of(recipe_of(tmp_path, **changes), manifest) == before


def test_other_shards_under_the_same_name_have_other_features(
    manifest: Manifest, tmp_path: Path
) -> None:
    recipe = recipe_of(tmp_path)
    before = folder_of(recipe, manifest)
    changed = shards()
    first = changed[0]["s0_000"]["json"]
    changed[0]["s0_000"]["json"] = first.replace(b"a house", b"a horse")
    again = write_shards(tmp_path / "set", changed)
    assert again == manifest  # names, samples and bytes
    assert folder_of(recipe, again) != before


def test_other_weights_in_the_same_file_have_other_features(
    manifest: Manifest, tmp_path: Path
) -> None:
    weights = tmp_path / "weights.pth"
    recipe = recipe_of(tmp_path, method__image__weights=str(weights))
    state = method_of(recipe_of(tmp_path)).image.backbone.model.state_dict()
    torch.save(state, weights)
    before = folder_of(recipe, manifest)
    state["conv1.0.weight"] += 1
    torch.save(state, weights)
    assert folder_of(recipe, manifest) != before


def measured(recipe: Recipe, shards: Manifest) -> Retrieval:
    return evaluate_retrieval(
        method_of(recipe),
        evaluation_set(shards, ImageTransform(SIZE), TOKENIZER),
        None,
        recipe.evaluation,
        device=CPU,
        workers=0,
        max_bad_share=0.5,
    )


def test_bad_samples_are_named_and_met_again_where_they_stand(tmp_path: Path) -> None:
    manifest = write_shards(tmp_path / "set", with_bad_samples())
    recipe, said = recipe_of(tmp_path), list[str]()
    features = computed(recipe, manifest, said)
    url = f"{tmp_path}/set/set"
    assert [line for line in said if line.startswith("bad sample")] == [
        f"bad sample: {url}-000000.tar, s0_004: image does not decode (not an image)",
        f"bad sample: {url}-000001.tar, s1_000: caption in its json is not UTF-8",
        f"bad sample: {url}-000002.tar, s2_001: jpg is empty",
    ]
    assert_same_gallery(gallery_of(recipe, features), gallery_of(recipe, manifest))
    of_features, of_images = measured(recipe, features), measured(recipe, manifest)
    assert of_features.metrics == of_images.metrics
    assert [fault.cause for fault in of_features.faults] == [f.cause for f in of_images.faults]
    assert [fault.key.split("/")[1] for fault in of_features.faults] == [
        fault.key for fault in of_images.faults
    ]


def test_examples_show_the_images_that_features_were_made_of(tmp_path: Path) -> None:
    manifest = write_shards(tmp_path / "set", with_bad_samples())
    recipe = recipe_of(tmp_path)
    originals = SampleReader(manifest)
    got, expected = (
        load_examples(measured(recipe, shards).examples, originals)
        for shards in (computed(recipe, manifest), manifest)
    )
    assert len(got) == len(expected) == 12
    for one, other in zip(got, expected, strict=True):
        assert np.array_equal(one.image, other.image)
        assert one.text == other.text
        assert one.rank == other.rank
        for hit, other_hit in zip(one.hits, other.hits, strict=True):
            assert hit.is_relevant == other_hit.is_relevant


def test_a_shard_of_bad_samples_stops_the_run(tmp_path: Path) -> None:
    broken = shards()
    for sample in broken[1].values():
        sample["jpg"] = b"no image"
    manifest = write_shards(tmp_path / "set", broken)
    with pytest.raises(UserError, match=r"17 of 17 samples cannot be read, the first .*s1_000"):
        computed(recipe_of(tmp_path), manifest)


def test_samples_of_one_key_stay_apart(manifest: Manifest, tmp_path: Path) -> None:
    """Two samples of one name that follow each other: the second counts as bad."""
    good = shards()[2]["s2_000"]
    path = Path(manifest.shards[2].url)
    with tarfile.open(path, "w") as tar:
        for extension, data in [*good.items(), *good.items()]:
            info = tarfile.TarInfo(f"twin.{extension}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    write_manifest(path.parent, {path.name: write_index(path).num_samples})
    twins = read_manifest(path.parent)
    assert twins.num_samples == 2
    recipe, said = recipe_of(tmp_path), list[str]()
    features = computed(recipe, twins, said)
    assert f"bad sample: {path}, twin: key comes twice in its shard" in said
    assert_same_gallery(gallery_of(recipe, features), gallery_of(recipe, twins))
    assert len(measured(recipe, features).faults) == len(measured(recipe, twins).faults) == 1


def compute_part(folder: Path) -> str:
    return computed(recipe_of(folder), read_manifest(folder / "set")).url


def test_ranks_share_the_work(manifest: Manifest, tmp_path: Path) -> None:
    (url, other) = on_ranks(2, compute_part, tmp_path)
    assert url == other
    recipe = recipe_of(tmp_path)
    assert_same_gallery(gallery_of(recipe, read_manifest(url)), gallery_of(recipe, manifest))


def test_nothing_to_cache_is_said(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.feature_cache: every encoder is trained"):
        computed(recipe_of(tmp_path, train=["*"]), manifest)


@pytest.mark.parametrize("side", ["image", "text"])
def test_a_side_is_locked_if_no_stage_trains_it(side: str, tmp_path: Path) -> None:
    values = recipe_of(tmp_path).model_dump(mode="json")
    values["stages"] = [{"train": ["*.head"]}, {"train": [side]}, {"train": ["loss"]}]
    recipe = Recipe.model_validate(json.loads(json.dumps(values)))
    assert locked_sides(method_of(recipe), recipe) == LockedSides(
        image=side == "text", text=side == "image"
    )


@pytest.mark.parametrize(
    ("train", "members"),
    [
        (["image.head", "text.head", "*.pie"], {"json", "image.npy", "text.npy"}),
        (["image.head", "*.pie", "text"], {"json", "image.npy"}),
        (["image", "*.pie", "text.head"], {"json", "jpg", "text.npy"}),
    ],
)
def test_features_of_parts_give_the_embeddings_that_the_images_give(
    train: list[str], members: set[str], manifest: Manifest, tmp_path: Path
) -> None:
    recipe = local_recipe(tmp_path, train=train)
    features = computed(recipe, manifest)
    assert {frozenset(one.members) for s in features.shards for one in features.index(s)} == {
        frozenset(members)
    }
    got, expected = gallery_of(recipe, features), gallery_of(recipe, manifest)
    assert got.images.shape == (40, 2, 8)
    assert_same_gallery(got, expected)


def test_features_of_parts_are_the_encoders_and_zero_after_a_caption(
    manifest: Manifest, tmp_path: Path
) -> None:
    recipe = local_recipe(tmp_path)
    method, originals = method_of(recipe), SampleReader(manifest)
    cached = SampleReader(computed(recipe, manifest))
    dataset = evaluation_set(manifest, evaluation_transform(recipe), TOKENIZER)
    for number in (2, 25, 39):
        batch = dataset[[number]]
        with torch.no_grad():
            image = method.image.backbone.local(batch.images.images)
            texts = method.text.backbone.local(batch.texts.tokens, batch.texts.token_mask)
        rows = torch.tensor(cached[number].features("image"))
        assert rows.shape == (4, method.image.backbone.local_features)
        torch.testing.assert_close(rows, image.rows[0], rtol=1e-4, atol=1e-5)
        words = torch.tensor(cached[number].features("text"))
        count = len(originals[number].captions())
        assert words.shape == (count, TOKENIZER.context, method.text.backbone.local_features)
        length = texts.rows.shape[1]
        torch.testing.assert_close(words[:, :length], texts.rows, rtol=1e-4, atol=1e-5)
        assert not words[:, length:].any()


def test_features_of_parts_and_of_the_whole_lie_apart(manifest: Manifest, tmp_path: Path) -> None:
    whole, parts = recipe_of(tmp_path), local_recipe(tmp_path)
    assert folder_of(whole, manifest) != folder_of(parts, manifest)


@pytest.mark.parametrize(
    ("changes", "side"),
    [
        ({"method__image__name": "test_convnext"}, "image"),
        ({"method__image__name": "mobilenetv3_small_050"}, "image"),
        ({"method__text": {"kind": "gru", "word": 16, "width": 16}}, "text"),
    ],
    ids="".join,
)
def test_parts_that_cannot_stand_for_the_whole_are_not_cached(
    changes: dict[str, Any], side: str, manifest: Manifest, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=rf"method.{side} does not pool its features by their mean"):
        computed(local_recipe(tmp_path, **changes), manifest)


def test_what_samples_say_of_themselves_is_kept(manifest: Manifest, tmp_path: Path) -> None:
    cached = SampleReader(computed(recipe_of(tmp_path), manifest))
    for number, original in enumerate(SampleReader(manifest)[i] for i in range(40)):
        assert cached[number].record == original.record
        assert cached[number].labels()
