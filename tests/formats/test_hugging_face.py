import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import xmodal
from tests.formats.dual_encoders import built, differences
from tests.formats.reference_libraries import References
from xmodal.errors import UserError
from xmodal.formats import hugging_face, sentence_transformers
from xmodal.formats.dual_encoder import DualEncoder
from xmodal.formats.source import read_source

MODELS = ["clip", "clip_gelu", "clip_old", "siglip", "siglip_gelu", "siglip2", "chinese_clip"]


@pytest.fixture(scope="session")
def folder(references: References) -> Path:
    return references.folder("hugging_face")


@pytest.mark.parametrize("name", MODELS)
def test_embeddings_are_those_of_transformers(folder: Path, name: str) -> None:
    found = differences(
        built(hugging_face.read(folder / name)), load_file(folder / f"{name}.safetensors")
    )
    assert max(found.values()) < 1e-5, found


MUTATIONS: dict[str, tuple[str, Callable[[DualEncoder], DualEncoder]]] = {
    "image activation": ("clip", lambda one: _with(one, "image", activation="gelu")),
    "text activation": ("clip", lambda one: _with(one, "text", activation="gelu")),
    "tanh in gelu": ("siglip", lambda one: _with(one, "image", activation="gelu")),
    "tanh in gelu of texts": ("siglip", lambda one: _with(one, "text", activation="gelu")),
    "epsilon": ("siglip", lambda one: _with(one, "image", eps=1e-4)),
    "transposed projection": ("clip", lambda one: _transposed(one, "text.head.1.weight")),
    "transposed attention": (
        "siglip",
        lambda one: _transposed(one, "image.backbone.model.attn_pool.proj.weight"),
    ),
    "no pre-norm": ("clip", lambda one: _with(one, "image", pre_norm=False)),
    "not causal": ("clip", lambda one: _with(one, "text", causal=False)),
    "last token": ("clip", lambda one: _with(one, "text", pooling="class")),
    "mean of patches": ("clip", lambda one: _with(one, "image", pooling="mean")),
}


def _with(model: DualEncoder, side: str, **keys: Any) -> DualEncoder:
    """Return a model with other keys of a tower, without the weights that it has no place for."""
    changed = replace(model, **{side: getattr(model, side).model_copy(update=keys)})
    kept = {
        name: weights
        for name, weights in model.weights.items()
        if keys.get("pre_norm", True) or ".norm_pre." not in name
    }
    return replace(changed, weights=kept)


def _transposed(model: DualEncoder, name: str) -> DualEncoder:
    weights = dict(model.weights)
    return replace(model, weights=weights | {name: weights[name].T})


@pytest.mark.parametrize("name", MUTATIONS)
def test_an_error_in_a_tower_shows(folder: Path, name: str) -> None:
    source, mutate = MUTATIONS[name]
    found = differences(
        built(mutate(hugging_face.read(folder / source))),
        load_file(folder / f"{source}.safetensors"),
    )
    assert max(found.values()) > 1e-5


def test_a_checkpoint_in_parts_is_read(folder: Path) -> None:
    assert len(list((folder / "in_parts").glob("*.safetensors"))) > 1
    whole, parts = (dict(hugging_face.read(folder / name).weights) for name in ("clip", "in_parts"))
    assert whole.keys() == parts.keys()
    assert all(weights.equal(parts[name]) for name, weights in whole.items())


def test_a_source_may_be_such_a_folder(folder: Path, tmp_path: Path) -> None:
    for name in MODELS:
        assert read_source(str(folder / name)).embedding == (48 if "siglip" in name else 32)
    (tmp_path / "0_CLIPModel").symlink_to(folder / "clip")
    module = {"type": "sentence_transformers.models.CLIPModel", "path": "0_CLIPModel"}
    (tmp_path / "modules.json").write_text(json.dumps([module]))
    with pytest.raises(UserError, match="is no model of images and texts"):
        read_source(str(tmp_path))  # the module is not within the folder
    (tmp_path / "0_CLIPModel").unlink()
    shutil.copytree(folder / "clip", tmp_path / "0_CLIPModel")
    assert read_source(str(tmp_path)).embedding == 32
    dense = {"type": "sentence_transformers.models.Dense", "path": "1_Dense"}
    (tmp_path / "modules.json").write_text(json.dumps([module, dense]))
    with pytest.raises(UserError, match="has a module Dense after its model"):
        read_source(str(tmp_path))


def test_a_tokenizer_of_another_model_is_one_line(folder: Path, tmp_path: Path) -> None:
    model = shutil.copytree(folder / "siglip", tmp_path / "model")
    for path in (folder / "clip").glob("tokenizer*"):
        shutil.copy(path, model)
    with pytest.raises(UserError, match=r"ids up to 599, .* those below 400; use the tokenizer"):
        xmodal.load(model)


def test_a_folder_that_is_no_such_model_is_one_line(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "siglip", tmp_path / "it")
    settings = json.loads((tmp_path / "it" / "config.json").read_text())
    for changes, line in (
        ({"model_type": "siglip2"}, "variable resolution \\(NaFlex\\)"),
        ({"model_type": "blip"}, "is a model of type blip; xmodal reads those of clip, siglip"),
        ({"vision_config": {"hidden_act": "relu"}}, "its activation is relu"),
        ({"vision_config": {"image_size": [24, 32]}}, "its image_size is"),
        ({"vision_config": {"num_channels": 1}}, "its images have 1 channels"),
    ):
        (tmp_path / "it" / "config.json").write_text(json.dumps(settings | changes))
        assert hugging_face.recognises(tmp_path / "it")
        with pytest.raises(UserError, match=line):
            hugging_face.read(tmp_path / "it")


@pytest.mark.slow
def test_sentence_transformers_gives_the_same(references: References, folder: Path) -> None:
    made = references.folder("sentence_clip", folder / "clip")
    expected = load_file(made / "expected.safetensors")
    for name in ("today", "legacy"):
        found = differences(built(sentence_transformers.read(made / name)), expected)
        assert max(found.values()) < 1e-5, (name, found)
