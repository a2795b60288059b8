"""The tokenizer that a run's weights were trained with."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.shard_sets import described, write_shards
from xmodal.assembly.recipe import Recipe
from xmodal.assembly.vocabulary import _captions, settle_tokenizer, tokenizer_of
from xmodal.data.reader import SampleReader
from xmodal.data.tokenizers.byte_pair import train_tokenizer
from xmodal.data.tokens import read_tokenizer
from xmodal.data.training_set import DataSet
from xmodal.errors import UserError
from xmodal.runs.run import Run

FIRST, OTHER = ["a red ball"] * 3, ["zwei blaue Quader"] * 3


@pytest.fixture
def recipe(make_recipe: Callable[..., Recipe]) -> Recipe:
    return make_recipe()


@pytest.fixture
def run(tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run whose data holds `FIRST`."""
    run = Run(tmp_path / "run")
    run.create(recipe)
    holds(monkeypatch, FIRST)
    return run


def holds(monkeypatch: pytest.MonkeyPatch, captions: list[str]) -> None:
    monkeypatch.setattr("xmodal.assembly.vocabulary._captions", lambda _: iter(captions))


def saved(run: Run, *, copy: bool = True) -> bytes:
    """Leave what saving step 5 leaves of the tokenizer, and return it."""
    assert run.vocabulary is not None
    run.checkpoint(5).mkdir()
    if copy:
        (run.checkpoint(5) / "tokenizer.json").write_bytes(run.vocabulary)
    (run.checkpoints / "latest").write_text("step-5")
    return run.vocabulary


def test_without_a_checkpoint_it_is_that_of_the_data(
    run: Run, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settle_tokenizer(run, recipe.method, []) == []
    first = run.vocabulary
    holds(monkeypatch, OTHER)
    assert settle_tokenizer(run, recipe.method, []) == []
    assert run.vocabulary == run.tokenizer.read_bytes() != first
    run.tokenizer.write_text("{")
    assert settle_tokenizer(run, recipe.method, []) == []
    read_tokenizer(run.tokenizer, 8)


def test_removed_with_data_changed_it_is_the_checkpoints(
    run: Run, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle_tokenizer(run, recipe.method, [])
    right = saved(run)
    holds(monkeypatch, OTHER)
    assert settle_tokenizer(run, recipe.method, []) == []
    run.tokenizer.unlink()
    (line,) = settle_tokenizer(run, recipe.method, [])
    assert line == f"warning: {run.tokenizer} was missing; restored from step-5"
    assert run.tokenizer.read_bytes() == run.vocabulary == right


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\x00", None])
def test_damaged_or_changed_it_is_the_checkpoints_and_kept_aside(
    content: bytes | None, run: Run, recipe: Recipe
) -> None:
    settle_tokenizer(run, recipe.method, [])
    right = saved(run)
    if content is None:
        train_tokenizer(OTHER, 8, vocabulary=300).save(run.tokenizer)
        content = run.tokenizer.read_bytes()
    run.tokenizer.write_bytes(content)
    (line,) = settle_tokenizer(run, recipe.method, [])
    assert "was not the one of step-5 and is kept as tokenizer.json.other; restored" in line
    assert run.tokenizer.read_bytes() == right
    assert run.tokenizer.with_name("tokenizer.json.other").read_bytes() == content


def test_a_checkpoint_of_before_has_no_copy(run: Run, recipe: Recipe) -> None:
    settle_tokenizer(run, recipe.method, [])
    right = saved(run, copy=False)
    assert settle_tokenizer(run, recipe.method, []) == []
    assert run.tokenizer.read_bytes() == right
    assert tokenizer_of(run, run.checkpoint(5)) == run.tokenizer
    run.tokenizer.unlink()
    with pytest.raises(UserError, match=r"tokenizer.json is missing, and step-5 has no copy"):
        settle_tokenizer(run, recipe.method, [])
    assert not run.tokenizer.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\x00", b"[]"])
def test_a_damaged_file_is_one_line(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"tokenizer\.json is no tokenizer \(.*\): restore it"):
        read_tokenizer(file, 8)


def test_it_is_learned_from_the_texts_that_are_drawn(tmp_path: Path, recipe: Recipe) -> None:
    record = {"zh": ["一只狗", "小狗"], "labels": ["dog"]}
    samples = {f"{n}": {"png": b"", "json": described(["never"], **record)} for n in range(3)}
    reader = SampleReader(write_shards(tmp_path / "set", [samples]))
    for name, options, captions in (
        ("plain", {}, {"never"}),
        ("zh", {"texts": {"zh": 1.0, "none": 1.0}}, {"一只狗", "小狗"}),
        ("labels", {"texts": {"labels": 1.0}, "templates": ["a {}.", "{}!"]}, {"a dog.", "dog!"}),
    ):
        assert set(_captions([DataSet(reader, **options)])) == captions, name
