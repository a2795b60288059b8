"""Exported folders hold the model: `xmodal.load` embeds from each as from the run."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import xmodal
from tests.launch.methods import CHANGES
from xmodal.assembly.build import build_method
from xmodal.assembly.export import Format, _other_texts, export
from xmodal.assembly.recipe import read_recipe
from xmodal.commands.export import main, read_arguments
from xmodal.data.cleaning import Cleaning
from xmodal.data.tokenizers.byte_pair import train_tokenizer
from xmodal.data.tokenizers.words import train_word_tokenizer
from xmodal.errors import UserError
from xmodal.formats.model_card import model_card

CAPTIONS = ["a red circle", "two blue squares", "nothing"]
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), dtype=np.uint8)
SMALL_CLIP = (
    "method.image={kind: timm, name: test_resnet, size: 32}",
    "method.text={kind: transformer, width: 16, heads: 2, layers: 1}",
    "method.embedding=8",
)


def model_of(kind: str) -> xmodal.Model:
    """Return a small model with random weights."""
    changes = SMALL_CLIP if kind in ("clip", "filip") else CHANGES[kind]
    recipe = read_recipe(kind, ["data.train=x", "data.val=y", *changes])
    text = recipe.method.text
    make = train_word_tokenizer if kind in {"vsepp", "tirg"} else train_tokenizer
    tokenizer = make(4 * CAPTIONS, getattr(text, "context", 8))
    method = build_method(recipe, tokenizer.vocabulary, torch.device("cpu"))
    return xmodal.Model(method.eval(), recipe, tokenizer, torch.device("cpu"))


@pytest.fixture(scope="module")
def clip() -> xmodal.Model:
    return model_of("clip")


def test_a_folder_holds_the_model(clip: xmodal.Model, tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    results.write_text(json.dumps({"relevance/rsum": 440.16, "relevance/rsum_chance": 9.9}))
    export(clip, tmp_path / "mine", "xmodal", results=results, licence="apache-2.0")
    loaded = xmodal.load(tmp_path / "mine", device="cpu")
    images = list(PIXELS)
    assert torch.equal(loaded.encode_images(images), clip.encode_images(images))
    assert torch.equal(loaded.encode_texts(CAPTIONS), clip.encode_texts(CAPTIONS))
    card = (tmp_path / "mine" / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert "| rsum | 440.2 | 9.9 |" in card
    assert "| data.train | x |" in card
    assert [path.name for path in tmp_path.glob(".*")] == []  # nothing half written


def test_onnx_files_embed_features_as_the_model_does(tmp_path: Path) -> None:
    model = model_of("uncsm")
    lines = export(model, tmp_path / "onnx", "onnx")
    assert lines[0] == "scores: onnx holds the encoders, not the learned score of uncsm"
    loaded = xmodal.load(tmp_path / "onnx", device="cpu")
    rows = np.random.default_rng(0).normal(size=(3, 24)).astype(np.float32)
    torch.testing.assert_close(
        loaded.encode_images(rows), model.encode_images(rows), rtol=1e-5, atol=1e-5
    )


@pytest.mark.slow
def test_onnx_files_embed_as_the_model_does(tmp_path: Path) -> None:
    model = model_of("tirg")
    lines = export(model, tmp_path / "onnx", "onnx")
    assert [line.split(":")[0] for line in lines] == ["image.onnx", "query.onnx"]
    loaded = xmodal.load(tmp_path / "onnx", device="cpu")
    images = list(PIXELS)
    torch.testing.assert_close(
        loaded.encode_images(images), model.encode_images(images), rtol=1e-5, atol=1e-5
    )
    queries = [one.encode_queries(images, CAPTIONS) for one in (loaded, model)]
    torch.testing.assert_close(*queries, rtol=1e-5, atol=1e-5)


def test_sets_of_vectors_are_kept_and_scored(tmp_path: Path) -> None:
    model = model_of("filip")
    export(model, tmp_path / "filip", "xmodal")
    loaded = xmodal.load(tmp_path / "filip", device="cpu")
    scores = loaded.similarity(list(PIXELS), CAPTIONS)
    assert scores.shape == (3, 3)
    assert torch.equal(scores, model.similarity(list(PIXELS), CAPTIONS))
    images, texts = model.encode_images(list(PIXELS)), model.encode_texts(CAPTIONS)
    assert (images.shape, texts.shape) == ((3, 1, 8), (3, 32, 8))
    with pytest.raises(UserError, match="must be sets of vectors"):
        model.score(images, texts[:, 0])
    with pytest.raises(UserError, match="filip embeds an item as the vectors of its parts"):
        export(model, tmp_path / "onnx", "onnx")


def test_a_folder_that_exists_is_kept(clip: xmodal.Model, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="mine exists; name a folder that does not"):
        export(clip, tmp_path / "mine", "xmodal")


def test_what_a_format_cannot_express_is_one_line_and_leaves_nothing(
    clip: xmodal.Model, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"method\.image of kind timm"):
        export(clip, tmp_path / "hf", "hf")
    with pytest.raises(UserError, match="two towers, which tirg has not"):
        export(model_of("tirg"), tmp_path / "hf", "hf")
    with pytest.raises(UserError, match="learned scale of scores, which vsepp"):
        export(model_of("vsepp"), tmp_path / "hf", "open_clip")
    assert list(tmp_path.iterdir()) == []


def test_images_that_a_library_prepares_in_another_way_are_told(tmp_path: Path) -> None:
    vit = "{kind: vit, size: 32, patch: 16, width: 16, layers: 1, heads: 2, mlp: 20"
    text = "method.text={kind: clip_text, width: 16, layers: 1, heads: 2, mlp: 20}"
    tokenizer = train_tokenizer(CAPTIONS, 77)

    def lines(preprocessing: str, to: Format) -> list[str]:
        image = f"method.image={vit}, preprocessing: {preprocessing}}}"
        recipe = read_recipe("clip", ["data.train=x", "data.val=y", image, text])
        method = build_method(recipe, tokenizer.vocabulary, torch.device("cpu"))
        model = xmodal.Model(method.eval(), recipe, tokenizer, torch.device("cpu"))
        found = export(model, tmp_path / f"{to}{preprocessing}", to)
        card = (tmp_path / f"{to}{preprocessing}" / "README.md").read_text()
        assert all(line in card for line in found)
        return [line.partition(", ")[0] for line in found]

    assert lines("null", "hf") == ["images: hf has no resize: crop"]
    assert lines("{resize: shortest}", "hf") == []
    repairs = "texts: open_clip repairs broken Unicode and HTML entities (&amp;)"
    resizes = "images: open_clip resizes by pillow"
    assert lines("{resize: shortest}", "open_clip") == [resizes, repairs]
    assert lines("{resize: squash, resizer: pillow}", "open_clip") == [repairs]


@pytest.mark.parametrize(
    ("cleaning", "to", "line"),
    [
        ("none", "open_clip", "open_clip repairs"),
        ("siglip", "open_clip", "open_clip repairs"),
        ("clip", "open_clip", None),
        ("none", "hf", None),
        ("clip", "hf", "hf leaves"),
        ("lower", "sentence-transformers", "sentence-transformers leaves"),
    ],
)
def test_texts_that_a_library_reads_in_another_way_are_told(
    cleaning: Cleaning, to: Format, line: str | None
) -> None:
    found = [one.partition(" broken")[0] for one in _other_texts(cleaning, to)]
    assert found == ([f"texts: {line}"] if line else [])


def test_a_place_that_cannot_be_is_one_line(clip: xmodal.Model, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be made: Not a directory; name another"):
        export(clip, tmp_path / "file" / "x", "xmodal")
    with pytest.raises(UserError, match="cannot be made: "):
        export(clip, Path("/proc/x1"), "xmodal")
    with pytest.raises(UserError, match="file is no folder; name another place"):
        read_arguments(["RUN", "--format", "xmodal", "--to", str(tmp_path / "file" / "x" / "y")])


def test_a_card_has_no_folders_of_this_machine() -> None:
    card = model_card(
        name="it",
        to="onnx",
        licence="mit",
        recipe="run: /home/me/runs/it\nlist: [/a/b/c.tar, 's3://bucket/a/{0..3}.tar']\nbelow: a/b",
        data={"data.train": "/data/x/{00..12}.tar, https://host/a/b.tar"},
        metrics={},
        notes=["weights: trained"],
    )
    assert "run: it\nlist: [c.tar, 's3://bucket/a/{0..3}.tar']\nbelow: a/b\n" in card
    assert "| data.train | {00..12}.tar, https://host/a/b.tar |" in card


def test_what_was_begun_is_removed_when_it_is_terminated(
    clip: xmodal.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xmodal.assembly.model.load", lambda *_, **__: clip)
    begun = []

    def terminated(*_: object, **__: object) -> str:
        begun.extend(path.name for path in tmp_path.iterdir())
        signal.raise_signal(signal.SIGTERM)
        return ""

    monkeypatch.setattr("xmodal.assembly.export.model_card", terminated)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        main(["RUN", "--format", "xmodal", "--to", str(tmp_path / "mine")])
    assert caught.value.code == 143
    assert begun == [".mine.part"]
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_folder_has_no_checkpoint_to_choose(clip: xmodal.Model, tmp_path: Path) -> None:
    export(clip, tmp_path / "mine", "xmodal")
    with pytest.raises(UserError, match="is no run folder: it has no checkpoint"):
        xmodal.load(tmp_path / "mine", checkpoint="best")


def test_a_name_at_the_hub_is_told_its_prefix() -> None:
    for name in ("google/siglip-base-patch16-224", "./runs/it", "runs"):
        with pytest.raises(UserError) as caught:
            xmodal.load(name)
        assert ("write hf-hub:google/siglip" in str(caught.value)) == name.startswith("google")
