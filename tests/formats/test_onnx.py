"""ONNX files of every method's encoders compute what the method does."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.launch.methods import CHANGES
from xmodal.assembly.build import build_method
from xmodal.assembly.recipe import read_recipe
from xmodal.errors import UserError
from xmodal.formats import onnx
from xmodal.formats.onnx import LEAST_COSINE, TOLERANCE, Shapes, compare, sides_of, write_onnx
from xmodal.methods.method import Method

SMALL = {
    "clip": (
        "method.image={kind: timm, name: test_vit, size: 160, weights: random}",
        "method.text={kind: transformer, width: 32, heads: 2, layers: 2}",
    )
} | CHANGES


def method_of(kind: str, *changes: str) -> tuple[Method, Shapes]:
    """Return a small method with random weights, and what its inputs look like."""
    recipe = read_recipe(kind, ["data.train=x", "data.val=x", *(changes or SMALL[kind])])
    image, text = recipe.method.image, recipe.method.text
    shapes = Shapes(
        size=0 if image.reads_features else image.size,
        context=0 if text is None or text.reads_features else text.context,
        vocabulary=50,
        fixed_length=getattr(text, "padding", "masked") == "attended",
        image_features=(image.features,) if image.reads_features else (),
        text_features=(text.features,) if text is not None and text.reads_features else (),
    )
    return build_method(recipe, 50, torch.device("cpu")), shapes


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# The cheapest; the others are slow.
@pytest.mark.parametrize(
    "kind",
    ["uncsm", *(pytest.param(one, marks=pytest.mark.slow) for one in SMALL if one != "uncsm")],
)
def test_files_compute_what_the_method_does(kind: str, tmp_path: Path) -> None:
    method, shapes = method_of(kind)
    lines = list(write_onnx(method, tmp_path, shapes))
    features = {
        "image_features": bool(shapes.image_features),
        "text_features": bool(shapes.text_features),
    }
    sides = sides_of(method, **features)
    assert names(tmp_path) == {f"{side.name}.onnx" for side in sides}
    assert len(lines) == len(sides)
    for side in sides:
        difference, _ = compare(method, side, tmp_path / f"{side.name}.onnx", shapes)
        assert difference <= TOLERANCE
    list(write_onnx(method, tmp_path, shapes, int8=True))
    for side in sides:
        _, cosine = compare(method, side, tmp_path / f"{side.name}.onnx", shapes)
        assert cosine >= LEAST_COSINE


VIT = "{kind: vit, size: 16, patch: 8, width: 8, layers: 1, heads: 2, mlp: 16"
CLIP_TEXT = "kind: clip_text, width: 16, layers: 1, heads: 2, mlp: 32, context: 12"
SIGLIP = "causal: false, padding: attended"
OTHERS = [
    "",
    "pooling: class",
    "pooling: mean",
    "pooling: end_of_text, end: 3",
    "causal: false",
    SIGLIP,
    f"{SIGLIP}, pooling: mean",
    f"{SIGLIP}, pooling: end_of_text",
]


# One alone is cheap enough, that of CLIP.
@pytest.mark.parametrize(
    "text",
    ["pooling: end_of_text", *(pytest.param(one, marks=pytest.mark.slow) for one in OTHERS)],
)
def test_files_of_every_pooling_of_clip_text(text: str, tmp_path: Path) -> None:
    changes = (
        "method.image={kind: features, features: 6}",
        f"method.text={{{CLIP_TEXT}, {text}}}",
        "method.embedding=8",
    )
    method, shapes = method_of("clip", *changes)
    assert len(list(write_onnx(method, tmp_path, shapes))) == 2


@pytest.mark.parametrize("cell", ["gru", pytest.param("lstm", marks=pytest.mark.slow)])
def test_files_of_recurrent_encoders_that_pool_by_the_greatest(cell: str, tmp_path: Path) -> None:
    changes = (
        "method.image={kind: features, features: 6}",
        f"method.text={{kind: {cell}, word: 8, width: 8, bidirectional: true, pooling: max}}",
        "method.embedding=8",
    )
    method, shapes = method_of("clip", *changes)
    list(write_onnx(method, tmp_path, shapes))
    for side in sides_of(method, image_features=True, text_features=False):
        difference, _ = compare(method, side, tmp_path / f"{side.name}.onnx", shapes)
        assert difference <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize(
    "image",
    [
        "",
        "pooling: mean, norm_after_pooling: true",
        "pooling: attention, class_token: false, pre_norm: false, patch_bias: true",
    ],
)
def test_files_of_every_pooling_of_vit(image: str, tmp_path: Path) -> None:
    changes = (f"method.image={VIT}, {image}}}", f"method.text={{{CLIP_TEXT}}}")
    method, shapes = method_of("clip", *changes, "method.embedding=8")
    assert len(list(write_onnx(method, tmp_path, shapes))) == 2


def test_what_onnx_runtime_refuses_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, shapes = method_of("uncsm")
    run = onnx._run
    monkeypatch.setattr(
        onnx, "_run", lambda path, side, given: run(path, side, [one[:, :-1] for one in given])
    )
    with pytest.raises(UserError, match=r"image\.onnx: ONNX Runtime cannot run .*[Ii]nvalid dim"):
        list(write_onnx(method, tmp_path, shapes))


def test_a_file_that_computes_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, shapes = method_of("uncsm")
    monkeypatch.setattr(onnx, "TOLERANCE", 0.0)
    with pytest.raises(UserError, match=r"image\.onnx: embeddings differ from ours by"):
        list(write_onnx(method, tmp_path, shapes))


def test_formats_are_imported_without_onnx() -> None:
    code = "import sys, xmodal.formats.onnx; sys.exit('onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
