"""What is told before training of a recipe and shards that do not go with its method."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.recipes import SIZE, recipe_of
from tests.shard_sets import described, write_shards
from xmodal.assembly.build import first_method
from xmodal.assembly.checks import (
    best_metric,
    check_batch_norm,
    check_measurable,
    check_method,
    check_sample_spec,
)
from xmodal.assembly.data import data_sets, open_shards
from xmodal.assembly.pair_checks import check_queue
from xmodal.assembly.recipe import Recipe, read_recipe
from xmodal.data.batch import GALLERY, PAIRS, BatchSpec
from xmodal.data.sample_spec import SampleSpec
from xmodal.errors import UserError
from xmodal.methods.method import Method
from xmodal.training.config import CheckpointConfig

COMPOSED = BatchSpec(composed=True)
TIRG = {
    "method__kind": "tirg",
    "train": ["*.head", "fusion"],
    "stage": {"losses": {"soft_triplet": 1}},
    "data__feature_cache": None,
}
PTF = {
    "method": {
        "kind": "ptf_simcm",
        "image": {"kind": "timm", "name": "test_resnet", "size": SIZE},
        "text": {"kind": "transformer", "width": 16, "layers": 1, "heads": 2},
        "sentence": 16,
        "projection": 8,
        "prediction": 4,
    },
    "train": ["image"],
    "stage": {"losses": {"self_distillation": 1}},
}
SIMSIAM = {
    "method": {
        "kind": "simsiam",
        "image": {"kind": "timm", "name": "test_resnet", "size": SIZE},
        "projection": 8,
        "prediction": 4,
    },
    "train": ["image"],
    "stage": {"losses": {"self_distillation": 1}},
    "data__feature_cache": None,
}
BUCKETS = {"data__length_buckets": True}
FEATURES = {
    "method__text": {"kind": "features", "features": 4},
    "data__feature_cache": None,
}
SEARCHED = {"data__val": "queries", "data__gallery": "images"}


def checked(recipe: Recipe) -> Method:
    """Return a recipe's method, which checks have left as it was built."""
    method = first_method(recipe, torch.device("cpu"))
    check_method(recipe, method)
    assert all(parameter.requires_grad for parameter in method.parameters())
    assert all(module.training for module in method.modules())
    return method


def refusal(folder: Path, **changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        checked(recipe_of(folder, **changes))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"data__text_dropout": 0.2}, "data.text_dropout=0.2 drops texts of views, and clip "),
        (TIRG | {"data__text_dropout": 0.2}, "data.text_dropout=0.2 drops texts of views"),
        (TIRG | {"data__val": "queries"}, "data.gallery is missing: tirg answers the queries of"),
        (SEARCHED, "data.gallery=images is searched by composed queries, and clip makes none"),
        (TIRG | {"data__gallery": "images"}, "data.gallery is given without data.val"),
        (TIRG | {"data__positives": "caption"}, "data.positives=caption is for methods that match"),
        ({"data__positives": "caption"}, "data.positives=caption reads captions, and training"),
        (BUCKETS, "data.length_buckets: data.feature_cache holds the features of texts, which "),
        (BUCKETS | FEATURES, "data.length_buckets: method.text is kind: features, which have no"),
        (BUCKETS | SIMSIAM, "data.length_buckets: simsiam reads no texts; set it to false"),
    ],
)
def test_keys_that_do_not_go_with_the_method(
    changes: dict[str, Any], line: str, tmp_path: Path
) -> None:
    assert refusal(tmp_path, **changes).startswith(line)


@pytest.mark.parametrize(
    "changes",
    [{}, {"data__positives": "label"}, TIRG, TIRG | SEARCHED, PTF | {"data__text_dropout": 0.2}],
)
def test_keys_that_do(changes: dict[str, Any], tmp_path: Path) -> None:
    checked(recipe_of(tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"data__crop": (0.5, 1.0)}, "data.crop"),
        ({"data__flip": True}, "data.flip"),
        ({"data__augment": {}}, "data.augment"),
        (PTF | {"train": ["projector"]}, "two views of each (ptf_simcm)"),
    ],
)
def test_images_that_change_are_not_cached(
    changes: dict[str, Any], what: str, tmp_path: Path
) -> None:
    line = refusal(tmp_path, **changes)
    assert line.startswith("data.feature_cache: the image encoder is never trained, but images ")
    assert f"by {what}, " in line


def test_captions_of_other_keys_are_not_cached(tmp_path: Path) -> None:
    drawn = {"data__train": [{"url": "set", "texts": {"title": 1.0}}]}
    line = refusal(tmp_path, **drawn)
    assert line.startswith("data.feature_cache: the text encoder is never trained, but `texts` of ")
    checked(recipe_of(tmp_path, **drawn, train=["image.head", "text"]))


@pytest.mark.parametrize(
    "changes", [{"train": ["image", "text.head"]}, PTF], ids=["clip", "ptf_simcm"]
)
def test_texts_are_cached_whatever_images_do(changes: dict[str, Any], tmp_path: Path) -> None:
    moving = {"data__crop": (0.5, 1.0), "data__flip": True, "data__augment": {}}
    checked(recipe_of(tmp_path, **moving | changes))


def test_a_queue_is_no_longer_than_the_data(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, method__queue={"size": 40})
    check_queue(recipe, 40)
    with pytest.raises(UserError, match="a queue of 40 is longer than"):
        check_queue(recipe, 39)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_words_that_are_not_pooled_by_their_mean_are_not_cached(kind: str, tmp_path: Path) -> None:
    text = {"kind": kind, "word": 4, "width": 16}
    line = refusal(tmp_path, **PTF | {"method": PTF["method"] | {"text": text}})
    assert line.startswith("data.feature_cache: the encoder of method.text does not pool its feat")
    # Of the whole text there is something to cache.
    checked(recipe_of(tmp_path, method__text=text))


@pytest.mark.parametrize(
    ("changes", "ranks", "key"),
    [
        ({"data__batch_size": 1}, 1, "batch_size"),
        ({"data__micro_batch_size": 1}, 1, "micro_batch_size"),
        ({"data__micro_batch_size": 1}, 2, None),
        ({"data__batch_size": 2}, 1, None),
    ],
)
@pytest.mark.parametrize(
    ("method", "layer"), [(TIRG, "fusion.gate.0"), (PTF, "projector.1"), ({}, None)]
)
def test_one_sample_is_not_normalised_over_the_batch(
    method: dict[str, Any],
    layer: str | None,
    changes: dict[str, Any],
    ranks: int,
    key: str | None,
    tmp_path: Path,
) -> None:
    train = {"train": ["*"], "data__feature_cache": None}
    recipe = recipe_of(tmp_path, **method | train | changes)
    built = checked(recipe)
    if layer is None or key is None:
        check_batch_norm(recipe, built, ranks)
        return
    with pytest.raises(UserError) as caught:
        check_batch_norm(recipe, built, ranks)
    assert str(caught.value).startswith(f"data.{key}=1: {layer} of {recipe.method.kind} normalises")


@pytest.mark.parametrize(
    ("kind", "contents", "line"),
    [
        (
            SampleSpec(None, None),
            COMPOSED,
            "clip reads composed queries (KEY.source.jpg, KEY.target.jpg",
        ),
        (
            SampleSpec(None, None, composed=True),
            PAIRS,
            "shards holds composed queries (KEY",
        ),
        (
            SampleSpec(None, None, composed=True),
            GALLERY,
            "shards holds composed queries (KEY",
        ),
        (
            SampleSpec((4,), None),
            BatchSpec(views=2),
            "clip compares two views of an image",
        ),
        (
            SampleSpec((4,), None),
            GALLERY,
            "method.image is kind: timm, but shards holds features",
        ),
        (
            SampleSpec(None, (4,)),
            PAIRS,
            "method.text is kind: transformer, but shards holds",
        ),
    ],
)
def test_shards_that_do_not_go_with_the_method(
    kind: SampleSpec, contents: BatchSpec, line: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        check_sample_spec(recipe_of(tmp_path), "shards", kind, contents, local=False)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "contents"),
    [
        (SampleSpec(None, None), PAIRS),
        (SampleSpec(None, (4,)), GALLERY),  # what is not read is no matter
        (SampleSpec(None, None, composed=True), COMPOSED),
    ],
)
def test_shards_that_do(kind: SampleSpec, contents: BatchSpec, tmp_path: Path) -> None:
    check_sample_spec(recipe_of(tmp_path), "shards", kind, contents, local=False)


def test_ranks_that_cannot_share_an_evaluation_are_refused_before_training(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, [{key: {"json": described([key])} for key in ("a", "b")}])
    check_measurable(shards, 2)
    with pytest.raises(
        UserError, match=r"3 ranks cannot share .* there are only 2; use at most so m"
    ):
        check_measurable(shards, 3)


@pytest.mark.parametrize(
    ("recipe", "words", "protocols", "best"),
    [
        ("clip", [], ["relevance"], "text_to_image/recall@10"),
        ("clip", [], ["class", "relevance"], "text_to_image/recall@10"),
        ("clip", [], ["class"], "class/map"),
        ("simsiam", ["checkpoints.best=null"], ["visual"], "visual/map@r"),
        ("tirg", ["checkpoints.best=null"], ["composed", "css"], "composed/recall@1"),
        ("tirg", [], ["composed"], "recall@10"),
    ],
)
def test_the_best_checkpoint_is_chosen_by_what_is_measured(
    recipe: str, words: list[str], protocols: list[str], best: str
) -> None:
    contents = BatchSpec(views=2, captions=0) if recipe == "simsiam" else BatchSpec()
    method: Any = SimpleNamespace(learned_score=False, contents=contents)
    data = ["data.train=a", "data.val=b"]
    assert best_metric(read_recipe(recipe, [*data, *words]), protocols, method) == best


def test_the_default_metric_of_run_folders_of_before_is_the_default() -> None:
    assert CheckpointConfig(best="text_to_image/recall@10") == CheckpointConfig()


def test_a_data_set_makes_captions_of_the_labels_and_templates_of_the_recipe(
    tmp_path: Path,
) -> None:
    write_shards(tmp_path / "set", [{"a": {"json": described([], labels=["cat"])}}])
    one = {"url": str(tmp_path / "set"), "texts": {"labels": 1.0}, "templates": ["a {}.", "the {}"]}
    recipe = recipe_of(tmp_path, data__train=[one], data__feature_cache=None)
    (data_set,) = data_sets(recipe, open_shards(recipe))
    (sample,) = data_set.reader.load(range(1))
    drawn = [sample.draw(d, data_set.texts, templates=data_set.templates) for d in (0.1, 0.9)]
    assert drawn == ["a cat.", "the cat"]
