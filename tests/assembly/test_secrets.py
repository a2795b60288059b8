"""Secrets of a recipe: their places alone are written, shown and pickled."""

import pickle
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from xmodal.assembly.recipe import Recipe, load_recipe, read_recipe, with_values
from xmodal.components.differences import differences
from xmodal.errors import UserError
from xmodal.runs.recipe_file import dump_recipe

LITERALS = [
    "data.s3.secret=hush1",
    "data.s3.key=hush1",
    "data.s3.token=hush1",
    "data.s3=hush1",
    "data.s3={secret: hush1, key: {file: x}}",
    "data.s3={secret: {file: x}, none: 1, token: [hush1]}",
    "data.s3.secret={hush1}",
    "data.s3.secret={file: hush1",
    'data.s3.secret="hush1',
    "data.s3.secret=[hush1]",
    "data.s3.secret=*hush1",
    "data.s3.secret=!hush1",
    "data.s3.secret=!!int hush1",
    "data.s3.secret=hush1: hush1: x",
    "data.s3.secret=%hush1",
    "data.s3.secret.hush1=3",
    "data.s3.secret.variable=[hush1]",
    "data.s3.secret={variable: hush1/x}",
    "data.s3.secret={file: x, variable: hush1}",
    "data.s3.secret:hush1",
    "data.s3.secret: hush1",
    "data.s3.endpoint=https://me:hush1@host",
]


@pytest.mark.parametrize("literal", LITERALS)
def test_a_secret_in_a_command_is_refused_and_not_said_again(
    literal: str, read: Callable[..., Recipe]
) -> None:
    with pytest.raises(UserError, match=r"^[^\n]*data\.s3[^\n]*$") as caught:
        read(literal)
    shown = "".join(traceback.format_exception(caught.value))
    assert "hush1" not in shown
    if literal == "data.s3.secret=hush1":
        assert "{file: PATH} or {variable: NAME}" in shown


@pytest.mark.parametrize(
    "text", ["secret: hush1", "secret: 'hush1", "secret: *hush1", "secret: {a: hush1", "? [hush1]"]
)
def test_a_secret_in_a_recipe_is_refused_and_not_said_again(
    text: str, read: Callable[..., Recipe], tmp_path: Path
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"data:\n  train: x\n  s3:\n    {text}\n")
    for overrides in ([], ["data.s3.secret.file=x"]):
        with pytest.raises(UserError) as caught:
            read_recipe(str(path), overrides, tmp_path)
        assert "hush1" not in "".join(traceback.format_exception(caught.value))


def test_the_place_of_a_secret_goes_where_a_recipe_goes(
    read: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUR_SECRET", "hush1")
    (tmp_path / "key").write_text("hush2\n")
    recipe = read("data.s3.secret.variable=OUR_SECRET", f"data.s3.key={{file: {tmp_path}/key}}")
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    for one in (recipe, load_recipe(tmp_path), with_values(recipe, {"run": "x"}, "trial")):
        assert one.data.s3.secret.read("data.s3.secret") == "hush1"
        assert one.data.s3.key.read("data.s3.key") == "hush2"
        shown = (
            repr(one) + dump_recipe(one) + str(pickle.dumps(one)) + str(differences(read(), one))
        )
        assert "hush" not in shown
    monkeypatch.delenv("OUR_SECRET")
    with pytest.raises(UserError, match=r"^data.s3.secret: .* OUR_SECRET is not there, or is"):
        recipe.data.s3.secret.read("data.s3.secret")
