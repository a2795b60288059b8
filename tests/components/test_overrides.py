"""Overrides: what `key=value` means for keys of each kind."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.recipes import MINIMAL
from xmodal.assembly.recipe import Recipe, read_recipe
from xmodal.errors import UserError

# Paths and names that YAML reads as something else, or not at all.
NAMES = [
    "runs/a: b",
    "1e5",
    "2024",
    "2024-01-01",
    "0123",
    "[x]",
    "{x}",
    "yes",
    "off",
    "true",
    "a #1",
    "#1",
    "*x",
    "&x",
    "!x",
    "%x",
    "@x",
    "`x`",
    "- x",
    "x:",
    ": x",
    "a\tb",
    "it's",
    'say "x"',
    "C:\\new",
    "a=b",
    "ü 図",
    "s3://bucket/a: b/{000..099}.tar",
    "null ",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "small.yaml").write_text(yaml.safe_dump(MINIMAL))
    return folder


def read(folder: Path, *overrides: str) -> Recipe:
    return read_recipe("small", overrides, folder)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_the_text_as_it_is(name: str, folder: Path) -> None:
    recipe = read(folder, f"run={name}", f"data.val={name}", f"stages.0.name={name}")
    assert (recipe.run, recipe.data.val, recipe.stages[0].name) == (name, name, name)


@pytest.mark.parametrize("name", [name for name in NAMES if name[0] not in "[{"])
def test_a_data_set_alone_is_named_by_its_url(name: str, folder: Path) -> None:
    assert read(folder, f"data.train={name}").data.train[0].url == name


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_path_is_kept(folder: Path, text: str) -> None:
    if text[0] not in "'\"":
        assert read(folder, f"run={text}").run == text


@pytest.mark.parametrize("text", ["null", "~", "Null", ""])
def test_null_is_null_where_a_key_may_be_null(text: str, folder: Path) -> None:
    assert read(folder, "data.val=x", f"data.val={text}").data.val is None
    if text:
        assert read(folder, f"run={text}").run == text


@pytest.mark.parametrize(
    ("text", "name"), [("'a: b'", "a: b"), ('"1e5"', "1e5"), ("'null'", "null")]
)
def test_quotes_around_a_name_are_none_of_it(text: str, name: str, folder: Path) -> None:
    recipe = read(folder, f"run={text}", f"data.val={text}")
    assert (recipe.run, recipe.data.val) == (name, name)


def test_other_keys_are_yaml(folder: Path) -> None:
    recipe = read(
        folder,
        "data.batch_size=128 # pairs",
        "data.crop=null",
        "data.flip=off",
        "data.train=[{url: 'a: b', weight: 3}, {url: c, weight: 1}]",
        "stages.0.train=[image.*, text.head]",
        "stages.0.length=5 epochs",
        "stages.0.optimizer.lr=1e-3",
        "method.text={kind: transformer, width: 64, heads: 2}",
        "method.image.options={embed_dim: 64}",
        "training.precision=auto",
    )
    assert (recipe.data.batch_size, recipe.data.crop, recipe.data.flip) == (128, None, False)
    assert [one.url for one in recipe.data.train] == ["a: b", "c"]
    assert recipe.stages[0].train == ["image.*", "text.head"]
    assert recipe.stages[0].optimizer.lr == 1e-3


def test_a_single_value_does_not_drop_the_keys_of_a_list(tmp_path: Path) -> None:
    labelled = [{"url": "a", "texts": {"labels": 1}, "templates": ["a photo of a {}."]}]
    path = tmp_path / "labels.yaml"
    path.write_text(yaml.safe_dump(MINIMAL | {"data": {"train": labelled}}))
    message = (
        r"^data\.train: a single value would drop the recipe's url, texts, templates; change a "
        r"key, such as data\.train\.0\.url=…, or replace all of it: data\.train=\[…\]$"
    )
    with pytest.raises(UserError, match=message):
        read_recipe(str(path), ["data.train=b"])
    (kept,) = read_recipe(str(path), ["data.train.0.url=b"]).data.train
    assert (kept.url, kept.texts) == ("b", {"labels": 1})
    (replaced,) = read_recipe(str(path), ["data.train=[b]", "data.train=c"]).data.train
    assert (replaced.url, replaced.texts) == ("c", {})


@pytest.mark.parametrize("text", ["'a", '"a: b', "[a"])
def test_what_begins_as_yaml_and_is_none_is_refused(text: str, folder: Path) -> None:
    key = "data.train" if text.startswith("[") else "run"
    with pytest.raises(UserError, match=r"the value is not YAML: .*; quote it"):
        read(folder, f"{key}={text}")
