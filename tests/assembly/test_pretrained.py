"""Pretrained models that a recipe begins with: what is described, and what is loaded."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.pretrained_models import write_pretrained
from xmodal.assembly.build import first_method, with_vocabulary
from xmodal.assembly.pretrained import load_pretrained
from xmodal.assembly.recipe import Recipe, read_recipe
from xmodal.errors import UserError
from xmodal.formats.source import read_source
from xmodal.methods.method import Method
from xmodal.runs.run import Run

Read = Callable[..., Recipe]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pretrained(tmp_path_factory.mktemp("source") / "clip")


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Reads a recipe whose method has the given keys, with overrides."""

    def with_keys(*overrides: str, **method: Any) -> Recipe:
        path = tmp_path / "recipe.yaml"
        values = {"run": str(tmp_path / "run"), "data": {"train": "x"}}
        path.write_text(yaml.safe_dump(values | {"method": {"kind": "clip", **method}}))
        return read_recipe(str(path), overrides)

    return with_keys


def loaded(recipe: Recipe) -> tuple[Method, list[str]]:
    torch.manual_seed(9)
    method: Method = recipe.method.build(vocabulary=300)
    return method, list(load_pretrained(method, recipe))


def test_a_source_describes_and_fills_the_method(read: Read, source: Path) -> None:
    recipe = read(pretrained=str(source))
    model = read_source(str(source))
    assert recipe.method.image == model.image
    assert recipe.method.text == model.text
    assert (recipe.method.embedding, recipe.method.objective) == (8, model.objective)
    method, lines = loaded(recipe)
    state = method.state_dict()
    assert state.keys() == model.weights.keys()
    assert all(state[name].equal(model.weights[name]) for name in state)
    assert [line.split()[-1] for line in lines] == ["method.image", "method.text"]


def test_keys_of_the_recipe_take_the_place_of_those_described(read: Read, source: Path) -> None:
    recipe = read(
        "method.text.context=9", pretrained=str(source), image={"size": 32, "patch_dropout": 0.5}
    )
    assert (recipe.method.image.size, recipe.method.image.width) == (32, 16)
    assert recipe.method.text.context == 9
    method, lines = loaded(recipe)
    assert method.state_dict()["image.backbone.model.pos_embed"].shape == (1, 17, 16)
    assert lines[0] == "Resized the positions of the image encoder from 3 × 3 to 4 × 4"
    assert lines[2] == "Resized the positions of the text encoder from 16 to 9"


def test_a_tower_and_heads_of_the_recipes_own_begin_random(read: Read, source: Path) -> None:
    image = {"kind": "timm", "name": "test_resnet", "size": 32}
    recipe = read("method.embedding=6", pretrained=str(source), image=image)
    method, lines = loaded(recipe)
    assert [line for line in lines if "begins" in line] == [
        "method.image is not the encoder of method.pretrained: it begins as described",
        "method.text_head is not that of method.pretrained: it begins random",
    ]
    words = method.state_dict()["text.backbone.words.weight"]
    assert words.equal(read_source(str(source)).weights["text.backbone.words.weight"])


def test_towers_come_from_two_places(read: Read, source: Path, tmp_path: Path) -> None:
    sigmoid = {"kind": "sigmoid", "scale": 20, "bias": -3}
    other = write_pretrained(tmp_path / "other", embedding=8, objective=sigmoid)
    both = {"image": str(source), "text": str(other)}
    method, lines = loaded(read(pretrained=both, objective=sigmoid))
    assert lines[-1].startswith("The scale of scores is that of the recipe")
    torch.testing.assert_close(method.loss.log_scale.exp(), torch.tensor([20.0]))
    one, _ = loaded(read(pretrained=str(other)))
    assert one.loss.bias.item() == -3
    own, _ = loaded(read(pretrained=str(other), objective={"bias": -5.0}))
    assert own.loss.bias.item() == -5


def test_a_run_with_a_checkpoint_needs_its_source_no_more(
    read: Read, source: Path, tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(source, tmp_path / "moved"))
    recipe = read(pretrained=str(moved), image={"size": 32})
    run = Run(recipe.run)
    run.create(recipe)
    folder = run.checkpoint(3)
    folder.mkdir()
    (run.checkpoints / "latest").write_text(folder.name)
    shutil.rmtree(moved)
    again = read(pretrained=str(moved), image={"size": 32})
    assert again == recipe
    assert loaded(again)[1] == []


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"image": {"width": 32}}, r"cls_token is .*give no other sizes than size"),
        ({"image": {"layers": 2}}, r"has no image\.backbone\.model\.blocks\.1"),
        (
            {
                "image": {"kind": "timm", "name": "test_resnet"},
                "text": {"kind": "gru", "width": 8},
            },
            "method.pretrained gives nothing",
        ),
    ],
)
def test_weights_that_do_not_fit_are_reported(
    read: Read, source: Path, method: dict, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        loaded(read(pretrained=str(source), **method))


def test_a_tokenizer_of_more_ids_than_the_tower_has_is_reported(read: Read, source: Path) -> None:
    recipe = read(pretrained=str(source), text={"token_ids": 200, "tokenizer": {"kind": "bytes"}})
    method = first_method(recipe, torch.device("cpu"))
    tokenizer = recipe.method.text.tokenizer.build(iter(()), 16)
    match = r"method\.text\.tokenizer has ids up to \d+, and method\.text those below 200;"
    with pytest.raises(UserError, match=match):
        with_vocabulary(method, recipe, tokenizer, torch.device("cpu"))
    # Special tokens that no caption has, as T5's, are no matter.
    fitting = recipe.method.text.tokenizer.build(iter(()), 16)
    largest = fitting.largest_id
    fitting.tokenizer.add_special_tokens([f"<extra_{number}>" for number in range(200)])
    assert fitting.vocabulary > largest + 200
    assert fitting.largest_id == largest
    text = recipe.method.text.model_copy(update={"token_ids": largest + 1})
    roomy = recipe.model_copy(update={"method": recipe.method.model_copy(update={"text": text})})
    method = first_method(roomy, torch.device("cpu"))
    assert with_vocabulary(method, roomy, fitting, torch.device("cpu")) is method


def test_a_tokenizer_of_another_model_is_reported(read: Read, source: Path) -> None:
    def refusal(**text: Any) -> str:
        recipe = read(pretrained=str(source), text={"tokenizer": {"kind": "bytes"}, **text})
        method = first_method(recipe, torch.device("cpu"))
        tokenizer = recipe.method.text.tokenizer.build(iter(()), 16)
        with pytest.raises(UserError) as caught:
            with_vocabulary(method, recipe, tokenizer, torch.device("cpu"))
        return str(caught.value)

    assert "has ids up to 257, and method.text those below 9000;" in refusal(token_ids=9000)
    ended = refusal(token_ids=300, pooling="end_of_text", end=77)
    assert "does not end captions with the id 77, which method.text.end looks for" in ended
    ended = read(pretrained=str(source), text={"pooling": "end_of_text", "end": 1})
    method = first_method(ended, torch.device("cpu"))
    tokenizer = ended.method.text.tokenizer.build(iter(()), 16)
    assert with_vocabulary(method, ended, tokenizer, torch.device("cpu")) is method


def test_sources_that_are_none_are_reported(read: Read, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder or file"):
        read(pretrained=str(tmp_path / "none"))
    config = tmp_path / "it" / "config.json"
    config.parent.mkdir()
    for text, said in (
        (None, r"in no format that xmodal reads .*: it has none of their files"),
        ("{", r"its config\.json is damaged; download it again"),
        ('{"model_type": "bert"}', r"is of a model of type bert, without two towers; name a model"),
    ):
        if text:
            config.write_text(text)
        with pytest.raises(UserError, match=said):
            read(pretrained=str(config.parent))
    for key in ("pretraned=x", "txet.context=9"):
        with pytest.raises(UserError, match=f"unknown key method.{key[:4]}"):
            read(f"method.{key}", pretrained=str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"unknown key method\.pretraned"):
        read(pretrained=str(tmp_path / "none"), pretraned="x")
    with pytest.raises(UserError, match=r"unknown key data\.bach_size"):
        read("data.bach_size=3", pretrained=str(tmp_path / "none"))


def test_a_layer_that_is_not_used_is_reported(read: Read, tmp_path: Path) -> None:
    sizes = {"width": 16, "layers": 2, "heads": 2, "mlp": 40}
    deep = {"kind": "vit", "size": 24, "patch": 8} | sizes
    write_pretrained(tmp_path / "deep", image=deep)
    _, lines = loaded(read(pretrained=str(tmp_path / "deep"), image={"layers": 1}))
    assert "warning: 12 pretrained tensors are unused: image.backbone.model.blocks.1" in lines[0]
