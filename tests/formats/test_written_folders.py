"""Models written as folders of other libraries, which embed the same in a process of their own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize

from tests.formats.dual_encoders import built
from tests.formats.reference_libraries import PYTHON, References
from xmodal.data.tokens import CaptionTokenizer
from xmodal.errors import UserError
from xmodal.formats import hugging_face, sentence_transformers
from xmodal.formats.dual_encoder import DualEncoder
from xmodal.methods.clip import ClipConfig

TEXTS = ["A photo of two dogs, running!", "the café's cat", "", "snow " * 60]
READ = ["clip", "clip_gelu", "clip_old", "siglip", "siglip_gelu", "siglip2"]
IMAGE = {"kind": "vit", "size": 24, "patch": 8, "width": 48, "layers": 2, "heads": 4, "mlp": 96}
TEXT = {"kind": "clip_text", "context": 20, "width": 32, "layers": 2, "heads": 4, "mlp": 80}
SIGLIP_IMAGE = IMAGE | {
    "pooling": "attention",
    "class_token": False,
    "pre_norm": False,
    "patch_bias": True,
    "preprocessing": {"resize": "squash", "interpolation": "bilinear", "mean": [0.4, 0.5, 0.6]},
}
SIGLIP = {
    "image": SIGLIP_IMAGE,
    "image_head": None,
    "text_head": {"last": "affine"},
    "embedding": 48,
    "objective": {"kind": "info_nce"},  # without a bias
}
Model = tuple[DualEncoder, CaptionTokenizer]


def random_model(**keys: Any) -> Model:
    """Return a model of a recipe's keys; none of its weights is 0 or 1."""
    config = ClipConfig.model_validate({"image": IMAGE, "text": TEXT, "embedding": 24} | keys)
    tokenizer = config.text.tokenizer.build(iter(TEXTS), config.text.context)
    torch.manual_seed(0)
    method = config.build(vocabulary=tokenizer.vocabulary)
    weights = {
        name: one + 0.1 * torch.rand_like(one) if one.is_floating_point() else one
        for name, one in method.state_dict().items()
    }
    names = DualEncoder.__dataclass_fields__.keys() - {"weights"}
    fields = {name: getattr(config, name) for name in names}
    return DualEncoder(**fields, weights=weights), tokenizer


def read_model(folder: Path) -> Model:
    model = hugging_face.read(folder)
    return model, model.tokenizer.build(iter(()), model.text.context)


@torch.no_grad()
def embeddings(model: Model, images: Tensor) -> dict[str, Tensor]:
    encoder, tokenizer = model
    method = built(encoder, tokenizer.vocabulary)
    both = {"image": method.image(images), "text": method.text(*tokenizer(TEXTS))}
    return {f"{side}_embeddings": normalize(one, dim=1) for side, one in both.items()}


def check(models: dict[str, Model], images: Tensor, theirs: Path) -> None:
    for name, model in models.items():
        ours, found = embeddings(model, images), load_file(theirs / f"{name}.safetensors")
        for side, one in ours.items():
            assert (one - found[side]).norm(dim=1).max() < 1e-5, (name, side)


def words_of_clip() -> dict[str, str]:
    """Return the tokenizer of CLIP with the merges that open_clip brings."""
    (found,) = PYTHON.parents[1].glob("lib/*/site-packages/open_clip")
    return {"kind": "clip", "folder": str(found)}


def test_transformers_embeds_as_ours(references: References, tmp_path: Path) -> None:
    folder = references.folder("hugging_face")
    pooled = {"tokenizer": words_of_clip(), "pooling": "end_of_text"}
    words = {"kind": "pretrained", "name": str(folder / "siglip"), "pads": "context"}
    siglip_text = {"causal": False, "padding": "attended"}
    siglip_text |= {"tokenizer": words | {"clean": "canonicalize"}}
    models = {name: read_model(folder / name) for name in READ} | {
        "own_clip": random_model(text=TEXT | pooled),
        "own_words": random_model(text=TEXT),
        "own_siglip": random_model(text=TEXT | siglip_text, **SIGLIP),
    }
    for name, (model, tokenizer) in models.items():
        hugging_face.write(model, tokenizer, tmp_path / name)
    images = folder / "clip.safetensors"
    theirs = references.folder("transformers_embeddings", tmp_path, images)
    check(models, load_file(images)["images"], theirs)
    for name, (model, _) in models.items():
        written = load_file(tmp_path / name / "model.safetensors")
        assert written["logit_scale"].equal(
            model.weights["loss.log_scale"].view_as(written["logit_scale"])
        )
    for name in READ:
        begun, ended = (load_file(one / name / "model.safetensors") for one in (folder, tmp_path))
        assert begun.keys() == ended.keys()
        assert all(one.equal(ended[key]) for key, one in begun.items()), name
        tokens = load_file(theirs / f"{name}.safetensors")["tokens"]
        assert tokens.equal(load_file(folder / f"{name}.safetensors")["tokens"]), name


@pytest.mark.slow
def test_sentence_transformers_embeds_as_ours(references: References, tmp_path: Path) -> None:
    folder = references.folder("hugging_face")
    chinese = hugging_face.read(folder / "chinese_clip").text
    models = {name: read_model(folder / name) for name in ("clip", "siglip")} | {
        "router": random_model(
            image={"kind": "timm", "name": "test_resnet", "size": 24},
            text=chinese.model_copy(update={"pooling": "mean"}),
            image_head={"hidden": [40], "last": "affine"},
            text_head={"normalise": True, "hidden": [40, 30], "activation": "relu"},
        ),
        "clip_text": random_model(
            image={"kind": "timm", "name": "test_resnet", "size": 24},
            image_head={"hidden": [40], "last": "affine"},
            text=TEXT,
            text_head={"last": "affine"},
        ),
        "clip_image": random_model(
            text=chinese, text_head={"hidden": [30]}, image_head={"normalise": True}
        ),
        "no_heads": random_model(
            image={
                "kind": "timm",
                "name": "test_vit",
                "size": 24,
                "options": {"patch_size": 8, "embed_dim": 32, "num_heads": 4},
                "preprocessing": {"resize": "squash", "mean": [0.1, 0.2, 0.3]},
            },
            text=chinese,
            image_head=None,
            text_head=None,
            embedding=32,
        ),
    }
    for name, (model, tokenizer) in models.items():
        sentence_transformers.write(model, tokenizer, tmp_path / name)
    images = folder / "clip.safetensors"
    theirs = references.folder("sentence_embeddings", tmp_path, images)
    check(models, load_file(images)["images"], theirs)


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        ({"text_head": {"hidden": [8]}}, "method.text_head"),
        ({"image": IMAGE | {"pre_norm": False}}, "method.image.pre_norm: False"),
        ({"image": IMAGE | {"pooling": "mean"}}, "method.image.pooling: mean"),
        ({"text": TEXT | {"pooling": "mean"}}, "method.text.pooling: mean"),
        ({"text": {"kind": "transformer"}}, "method.text of kind transformer"),
        ({"objective": {"kind": "sigmoid"}}, "method.objective of kind sigmoid"),
        (
            {"image": IMAGE | {"preprocessing": {"resize": "longest"}}},
            "method.image.preprocessing.resize: longest",
        ),
    ],
)
def test_a_part_without_a_place_is_named(keys: dict[str, Any], part: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"cannot express {part}"):
        hugging_face.write(*random_model(**keys), tmp_path / "new")
    assert not (tmp_path / "new" / "config.json").exists()


def test_a_part_that_no_module_is_for_is_named(tmp_path: Path) -> None:
    timm = {"kind": "timm", "name": "test_vit", "size": 160}
    for image, text, part in (
        (timm, TEXT | {"causal": False}, "method.text.causal: False"),
        (timm | {"pooling": "mean"}, TEXT, "method.image.pooling: mean"),
        (IMAGE, {"kind": "gru"}, "method.text of kind gru beside method.image of kind vit"),
    ):
        model, tokenizer = random_model(image=image, text=text | {"tokenizer": {"kind": "bytes"}})
        with pytest.raises(UserError, match=f"transformers cannot express {part}"):
            sentence_transformers.write(model, tokenizer, tmp_path / "new")


def test_a_head_that_centres_has_no_module(tmp_path: Path) -> None:
    model, tokenizer = random_model(
        image={"kind": "timm", "name": "test_vit", "size": 160}, image_head={"normalise": "batch"}
    )
    with pytest.raises(UserError, match=r"image_head\.normalise: batch"):
        sentence_transformers.write(model, tokenizer, tmp_path / "new")
