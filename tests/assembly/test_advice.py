"""Warnings about training that would run and teach little."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.shard_sets import described, encode, numbered, plain, write_shards
from xmodal.assembly.advice import (
    lines_before_training,
    warnings_of_data,
    warnings_of_recipe,
)
from xmodal.assembly.recipe import Recipe
from xmodal.data.batch import PAIRS, BatchSpec
from xmodal.data.reader import SampleReader
from xmodal.data.survey import Survey
from xmodal.data.tokenizers.byte_pair import train_tokenizer
from xmodal.data.tokenizers.words import train_word_tokenizer
from xmodal.data.tokens import TokenCounts
from xmodal.data.training_set import DataSet
from xmodal.models.images.vit import VitConfig

MakeRecipe = Callable[..., Recipe]
BYTES = train_tokenizer(["a red cat"], 64, vocabulary=300)
SOUND = Survey("shards", 100, 100, 0, 0.0, TokenCounts(100, 0, 900, 0))


def of_recipe(recipe: Recipe, samples: int) -> list[str]:
    return list(warnings_of_recipe(recipe, PAIRS, recipe.timeline(samples), samples))


def of_data(recipe: Recipe, contents: BatchSpec = PAIRS, **found: Any) -> list[str]:
    return list(warnings_of_data(recipe, contents, Survey(**(vars(SOUND) | found))))


def stage(length: str = "100 steps", **schedule: Any) -> dict[str, Any]:
    return {"length": length, "schedule": schedule}


def test_a_sound_recipe_and_data_are_silent(make_recipe: MakeRecipe) -> None:
    assert of_recipe(make_recipe(data={"val": "shards"}), 1000) == []
    assert of_data(make_recipe()) == []


def test_pixels_that_no_patch_reads_are_told(make_recipe: MakeRecipe) -> None:
    def lines(size: int) -> list[str]:
        image = {"kind": "vit", "size": size, "patch": 16}
        recipe = make_recipe(data={"val": "shards"})
        vit = VitConfig.model_validate(image)
        method = recipe.method.model_copy(update={"image": vit})
        return of_recipe(recipe.model_copy(update={"method": method}), 1000)

    (line,) = lines(70)
    assert line.startswith("method.image.size=70 is no multiple of method.image.patch=16: the last")
    assert line.endswith("6 pixels of each side are not read; use 64 or 80")
    assert lines(64) == []


@pytest.mark.parametrize(
    ("data", "stages", "samples", "line"),
    [
        ({"batch_size": 64}, stage(), 40, "data.batch_size=64 is larger than the training set (40"),
        ({"batch_size": 64}, stage(), 40, "use data.batch_size=32 or less"),
        ({"batch_size": 1}, stage(), 40, "data.batch_size=1: a batch has no negatives"),
        (
            {"batch_size": 4096},
            stage("32 epochs"),
            6000,
            "data.batch_size=4096 makes 47 steps of this training set; data.batch_size=512 makes "
            "about 376",
        ),
        (
            {},
            stage(warmup="2000 steps"),
            999,
            "stage main: schedule.warmup of 2000 steps is longer than its 100 steps",
        ),
        (
            {},
            stage(kind="steps", milestones=["500 steps"]),
            999,
            "stage main: its rate falls first at step 500, after its 100 steps",
        ),
    ],
)
def test_a_recipe_that_does_not_fit_its_data(
    data: dict[str, Any], stages: dict[str, Any], samples: int, line: str, make_recipe: MakeRecipe
) -> None:
    (warning,) = of_recipe(make_recipe(stages=[stages], data={"val": "shards"} | data), samples)
    assert line in warning


def test_settings_of_stages_that_work_against_each_other(make_recipe: MakeRecipe) -> None:
    free = stage() | {"optimizer": {"kind": "schedule_free_adamw"}}
    (line,) = of_recipe(make_recipe(data={"val": "shards"}, stages=[free]), 1000)
    assert line == (
        "stage main: schedule_free_adamw is made for a rate that does not fall; use "
        "stages.0.schedule.kind=constant"
    )
    free = stage(kind="constant") | {"optimizer": {"kind": "schedule_free_sgd"}}
    assert of_recipe(make_recipe(data={"val": "shards"}, stages=[free]), 1000) == []
    evaluated = {"data": {"val": "shards"}, "evaluation": {"every": "50 steps"}}
    for patience, lines in ((1, 0), (2, 1)):
        stopping = {"early_stopping": {"patience": patience}}
        recipe = make_recipe(**evaluated, stages=[stage()], training=stopping)
        assert len(of_recipe(recipe, 1000)) == lines


def test_training_without_validation(make_recipe: MakeRecipe) -> None:
    (warning,) = of_recipe(make_recipe(run="runs/mine"), 1000)
    assert warning.startswith("data.val is null: nothing is measured while training")
    assert "python launch/evaluate.py runs/mine --data URL" in warning


@pytest.mark.parametrize(
    ("found", "line"),
    [
        ({"ids": 1}, "shards: all 100 surveyed samples have the same image_id"),
        ({"twins": 7}, "shards has the same image under different ids: 7 such samples among 100"),
        ({"chance_of_same_caption": 0.5}, "about 4.5 negatives in a batch whose caption is its"),
        ({"tokens": TokenCounts(100, 60, 900, 0)}, "60% of the surveyed captions are longer than"),
        ({"tokens": TokenCounts(100, 0, 900, 450)}, "50% of the words in the surveyed captions"),
    ],
)
def test_data_that_teach_little(found: dict[str, Any], line: str, make_recipe: MakeRecipe) -> None:
    (warning,) = of_data(make_recipe(), **found)
    assert line in warning


@pytest.mark.parametrize("found", [{"ids": 1}, {"twins": 7}, {"chance_of_same_caption": 0.5}])
def test_methods_without_negatives_by_image_need_no_ids(
    found: dict[str, Any], make_recipe: MakeRecipe
) -> None:
    assert of_data(make_recipe(), BatchSpec(labels=True), **found) == []
    assert of_data(make_recipe(), BatchSpec(views=2, captions=0), **found) == []
    assert of_data(make_recipe(data={"positives": "caption"}), **found) == []


@pytest.mark.parametrize(
    ("positives", "found"), [("label", {"labels": 1}), ("caption", {"chance_of_same_caption": 1.0})]
)
def test_positives_that_leave_no_negative(
    positives: str, found: dict[str, Any], make_recipe: MakeRecipe
) -> None:
    recipe = make_recipe(data={"positives": positives})
    (warning,) = of_data(recipe, **found)
    assert f"all 100 surveyed samples have the same {positives}, so" in warning
    assert of_data(recipe, labels=2) == []


def test_a_single_sample_has_no_negative(make_recipe: MakeRecipe) -> None:
    (warning,) = of_recipe(make_recipe(data={"val": "shards"}), 1)
    assert warning.startswith("the training set has a single sample")


def test_the_size_of_a_vocabulary_of_words_is_said(tmp_path: Path, make_recipe: MakeRecipe) -> None:
    method = {
        "kind": "vsepp",
        "image": {"kind": "timm", "name": "test_resnet"},
        "text": {"kind": "gru"},
    }
    recipe = make_recipe(data={"val": "shards"}, stages=[stage()], method=method)
    samples = {
        f"{n}": {"png": encode(plain(n)), "json": described([f"red {n}"])} for n in range(10)
    }
    shards = write_shards(tmp_path, [samples])
    words = train_word_tokenizer(["red"] * 9, 5, vocabulary=100, min_count=1)
    size, unknown = lines_before_training(
        recipe, PAIRS, recipe.timeline(10), [DataSet(SampleReader(shards))], None, words
    )
    assert size == f"vocabulary of 5 words: 50.0% of those in {shards.url} are unknown"
    assert "50% of the words in the surveyed captions are not in the vocabulary" in unknown


def test_shards_are_surveyed_once_each(tmp_path: Path, make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(data={"val": "shards"}, stages=[stage()])
    samples = numbered(40)
    for key in samples:
        samples[key] = {"png": encode(plain(0)), "json": described([key])}
    shards = write_shards(tmp_path, [samples])
    timeline = recipe.timeline(40)
    (warning,) = lines_before_training(
        recipe, PAIRS, timeline, [DataSet(SampleReader(shards))], shards, BYTES
    )
    assert "same image under different ids: 40 such samples among 40" in warning
