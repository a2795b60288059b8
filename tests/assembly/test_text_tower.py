"""The text tower of another run: described, read, and with it the vocabulary."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from xmodal.assembly.recipe import Recipe
from xmodal.assembly.text_tower import load_text_tower, replaced, with_text_tower
from xmodal.assembly.vocabulary import load_tokenizer, make_tokenizer
from xmodal.data.tokenizers.words import train_word_tokenizer
from xmodal.errors import UserError
from xmodal.methods.method import Method
from xmodal.runs.run import Run

IMAGE = {"kind": "timm", "name": "test_resnet", "size": 16}
TEXT = {
    "kind": "gru",
    "word": 4,
    "width": 3,
    "bidirectional": True,
    "tokenizer": {"kind": "words", "min_count": 1},
    "context": 9,
}
SIDES = {"image": IMAGE, "text": TEXT, "text_head": {"hidden": [5]}, "embedding": 6}


def recipe_of(method: dict[str, Any], run: Path) -> Recipe:
    return Recipe.model_validate({"run": str(run), "data": {"train": "x"}, "method": method})


@pytest.fixture
def words() -> list[str]:
    return ["a dog", "a cat and a dog"]


def trained(method: dict[str, Any], path: Path, words: list[str]) -> Method:
    """A run folder with one checkpoint; returns the method whose weights are in it."""
    recipe = recipe_of(method, path)
    tokenizer = train_word_tokenizer(words, 9, vocabulary=20_000, min_count=1)
    torch.manual_seed(7)
    made = recipe.method.build(vocabulary=tokenizer.vocabulary)
    save(made, recipe, path)
    tokenizer.save(Run(path).tokenizer)
    return made


def save(made: Method, recipe: Recipe, path: Path) -> None:
    """Write a run folder with one checkpoint."""
    run = Run(path)
    run.create(recipe)
    folder = run.checkpoint(3)
    folder.mkdir(parents=True)
    torch.save({"module": made.state_dict()}, folder / "mp_rank_00_model_states.pt")
    (folder / "state.json").write_text(json.dumps({"step": 3, "best_step": None}))
    (run.checkpoints / "latest").write_text(folder.name)


def begun(path: Path, **changes: Any) -> tuple[Recipe, Method]:
    """PTF-SimCM as a run begins it whose text tower comes from the run in `path`."""
    own = {"kind": "ptf_simcm", "image": IMAGE, "text": {"kind": "features", "features": 2}}
    given = recipe_of(own | {"text_from": str(path)} | changes, path.with_name("own"))
    recipe = with_text_tower(given)
    tokenizer = path.with_name("tokenizer.json")
    make_tokenizer(recipe.method, (), tokenizer)
    method = recipe.method.build(vocabulary=load_tokenizer(recipe.method, tokenizer).vocabulary)
    load_text_tower(method, recipe)
    return recipe, method


@pytest.mark.parametrize(("kind", "senses"), [("vsepp", 2), ("pvse", 2), ("pvse", 3)])
def test_a_run_gives_its_text_tower(
    kind: str, senses: int, tmp_path: Path, words: list[str]
) -> None:
    other = trained({"kind": kind, **SIDES}, tmp_path / "run", words)
    recipe, method = begun(tmp_path / "run", senses=senses)
    assert recipe.method.text.width == 3
    assert (recipe.method.text_head.hidden, recipe.method.sentence) == ([5], 6)
    assert with_text_tower(recipe) == recipe
    ours, theirs = method.state_dict(), other.state_dict()
    same = {name for name in ours if name in theirs and ours[name].equal(theirs[name])}
    texts = {name for name in ours if name.startswith("text.")}
    towers = {name for name in texts if not name.startswith("text.pie.")}
    assert towers <= same
    # Its PIE-Net where it is one of as many senses (the norms are alike at first).
    assert (texts <= same) == (kind == "pvse" and senses == 2)
    assert "image.backbone.conv1.weight" not in same
    tokenizer = load_tokenizer(recipe.method, tmp_path / "tokenizer.json")
    assert (
        tokenizer.vocabulary
        == train_word_tokenizer(words, 9, vocabulary=20_000, min_count=1).vocabulary
    )


def test_a_run_that_goes_on_has_its_tower(tmp_path: Path, words: list[str]) -> None:
    trained({"kind": "vsepp", **SIDES}, tmp_path / "run", words)
    recipe, method = begun(tmp_path / "run")
    method.text.head[0].weight.data += 1
    save(method, recipe, tmp_path / "own")
    shutil.rmtree(tmp_path / "run")
    again, resumed = begun(tmp_path / "run")
    assert again == recipe
    assert resumed.text.head[0].weight.equal(method.text.head[0].weight)
    shutil.rmtree(tmp_path / "own")
    with pytest.raises(UserError, match="run is no run folder"):
        begun(tmp_path / "run")


def test_what_is_not_used_is_told(tmp_path: Path, words: list[str]) -> None:
    trained({"kind": "vsepp", **SIDES}, tmp_path / "run", words)
    own = {"kind": "ptf_simcm", "image": IMAGE, "text_from": str(tmp_path / "run")}
    for text, sentence, names in (
        ({"kind": "features", "features": 2}, 7, "method.text, method.sentence"),
        (TEXT, 7, "method.sentence"),
    ):
        given = recipe_of(own | {"text": text, "sentence": sentence}, tmp_path / "own")
        (line,) = replaced(given, with_text_tower(given))
        assert line.startswith(f"method.text_from={tmp_path}/run: what that run has takes the pl")
        assert line.endswith(f" of the recipe's {names}")
    given = recipe_of(own | {"text": TEXT}, tmp_path / "own")
    assert replaced(given, with_text_tower(given)) == []


def test_what_cannot_be_taken_is_told(tmp_path: Path, words: list[str]) -> None:
    with pytest.raises(UserError, match="none is no run folder"):
        begun(tmp_path / "none")
    trained({"kind": "simsiam", "image": IMAGE}, tmp_path / "images", words)
    with pytest.raises(UserError, match="images is a run of simsiam, which puts no texts beside"):
        begun(tmp_path / "images")
    trained({"kind": "tirg", **SIDES}, tmp_path / "composed", words)
    with pytest.raises(UserError, match="composed is a run of tirg, which puts no texts beside"):
        begun(tmp_path / "composed")
    trained({"kind": "vsepp", **SIDES}, tmp_path / "run", words)
    run = Run(tmp_path / "run")
    weights = run.checkpoint(3) / "mp_rank_00_model_states.pt"
    state = torch.load(weights)["module"]
    state.pop("text.head.0.weight")
    torch.save({"module": state}, weights)
    with pytest.raises(UserError, match=r"step-3 does not fit its recipe.yaml: no text\.head\.0\."):
        begun(tmp_path / "run")
    run.tokenizer.unlink()
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="vocabulary is lost"):
        begun(tmp_path / "run")
    shutil.rmtree(run.checkpoints)
    with pytest.raises(UserError, match="has no checkpoint yet"):
        begun(tmp_path / "run")
