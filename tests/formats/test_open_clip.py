"""Models of open_clip: their embeddings by our towers, ours by open_clip, and what is reported."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.formats.dual_encoders import built, differences
from tests.formats.reference_libraries import References
from xmodal.data.tokenizers.byte_pair import train_tokenizer
from xmodal.data.tokens import CaptionTokenizer
from xmodal.errors import UserError
from xmodal.formats import open_clip
from xmodal.formats.dual_encoder import DualEncoder
from xmodal.formats.source import read_source
from xmodal.methods.clip import Clip, ClipConfig
from xmodal.models.positions import fit_positions

MODELS = [
    "clip",
    "quick",
    "custom",
    "pooled_before_norm",
    "siglip",
    "classifier",
    "mobile",
    "linear",
    "mlp",
    "bert",
    "bert_class",
]
BOUND = 1e-5  # of a relative difference


def folder_of(references: References, name: str) -> Path:
    return references.folder("open_clip_models") / name


def outputs(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "outputs" / "outputs.safetensors")


@pytest.fixture(scope="module")
def tokenizer() -> CaptionTokenizer:
    return train_tokenizer(["a dog", "a cat"], 12, vocabulary=300)


@pytest.mark.parametrize("name", MODELS)
def test_embeddings_are_those_of_open_clip(references: References, name: str) -> None:
    folder = folder_of(references, name)
    found = differences(built(read_source(str(folder))), outputs(folder))
    assert max(found.values()) < BOUND, found


@pytest.mark.parametrize(
    ("side", "changes"),
    [
        ("image", {"activation": "gelu"}),
        ("text", {"activation": "gelu_tanh"}),
        ("image", {"pre_norm": False}),
        ("text", {"head": "transposed"}),
        ("text", {"causal": False}),
        ("image", {"eps": 1e-2}),
    ],
    ids=str,
)
def test_one_wrong_part_is_noticed(references: References, side: str, changes: dict) -> None:
    folder = folder_of(references, "quick")
    right = read_source(str(folder))
    weights = dict(right.weights)
    if changes.pop("head", None):
        weights["text.head.1.weight"] = weights["text.head.1.weight"].T
    if "pre_norm" in changes:
        weights = {name: one for name, one in weights.items() if "norm_pre" not in name}
    encoder = getattr(right, side).model_copy(update=changes)
    wrong = replace(right, weights=weights, **{side: encoder})
    assert max(differences(built(wrong), outputs(folder)).values()) > 10 * BOUND


@pytest.mark.parametrize("name", MODELS)
def test_what_was_not_trained_is_written_as_it_was_read(
    references: References, name: str, tmp_path: Path, tokenizer: CaptionTokenizer
) -> None:
    folder = folder_of(references, name)
    open_clip.write(read_source(str(folder)), tokenizer, tmp_path)
    before, after = (load_file(one / open_clip.WEIGHTS[0]) for one in (folder, tmp_path))
    assert before.keys() == after.keys()
    assert all(before[one].equal(after[one]) for one in before)
    settings = [json.loads((one / open_clip.CONFIG).read_text()) for one in (folder, tmp_path)]
    given, written = (one["preprocess_cfg"] for one in settings)
    assert given.items() <= written.items()


def trained(encoder: DualEncoder) -> tuple[DualEncoder, Clip]:
    """A model whose weights, the scale too, are no longer those that were read."""
    method = built(encoder, 8 if encoder.text.has_own_vocabulary else 300)
    torch.manual_seed(2)
    with torch.no_grad():
        for weights in method.parameters():
            weights.add_(0.05 * torch.randn_like(weights))
    return replace(encoder, weights=method.state_dict()), method


def from_scratch() -> DualEncoder:
    """A model of ours, as a recipe describes it: no format has seen it."""
    config = ClipConfig.model_validate(
        {
            "image": {"kind": "vit", "size": 24, "patch": 8, "width": 32, "layers": 1, "heads": 4},
            "text": {"kind": "clip_text", "context": 12, "width": 16, "layers": 1, "heads": 2}
            | {"mlp": 40, "tokenizer": {"kind": "byte_pair", "vocabulary": 300}},
            "embedding": 8,
        }
    )
    method: Clip = config.build(vocabulary=300)
    names = ("image", "text", "image_head", "text_head", "embedding", "objective")
    fields: dict[str, Any] = {name: getattr(config, name) for name in names}
    return DualEncoder(**fields, weights=method.state_dict())


def test_open_clip_loads_what_was_trained(
    references: References, tmp_path: Path, tokenizer: CaptionTokenizer
) -> None:
    sources = [folder_of(references, name) for name in ("quick", "siglip", "mobile", "bert_class")]
    models = [*(read_source(str(source)) for source in sources), from_scratch()]
    methods = []
    for number, model in enumerate(models):
        changed, method = trained(model)
        open_clip.write(changed, tokenizer, tmp_path / str(number))
        methods.append(method)
    places = [tmp_path / str(number) for number in range(len(models))]
    folder = references.folder("open_clip_embeddings", *places)
    for number, method in enumerate(methods):
        theirs = load_file(folder / f"{number}.safetensors")
        found = differences(method, theirs)
        assert max(found.values()) < BOUND, (number, found)
        assert method.loss.log_scale.equal(theirs["logit_scale"])


def test_positions_are_resized_as_by_open_clip(references: References) -> None:
    source = folder_of(references, "clip")
    folder = references.folder("open_clip_embeddings", f"{source}:48:7")
    encoder = read_source(str(source))
    weights = dict(encoder.weights)
    for name, shape in (
        ("image.backbone.model.pos_embed", (1, 37, 32)),
        ("text.backbone.positions", (7, 24)),
    ):
        weights[name], _ = fit_positions(name, weights[name], torch.empty(shape))
    resized = replace(
        encoder,
        image=encoder.image.model_copy(update={"size": 48}),
        text=encoder.text.model_copy(update={"context": 7}),
        weights=weights,
    )
    found = differences(built(resized), load_file(folder / "0.safetensors"))
    assert max(found.values()) < BOUND, found


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"multimodal_cfg": {}}, "it is a CoCa"),
        ({"vision_cfg": {"layers": [3, 4, 6, 3]}}, "xmodal has no ResNet of CLIP's"),
        ({"text_cfg": {"embed_cls": True}}, "text_cfg.embed_cls has no encoder"),
        ({"vision_cfg": {"pool_type": "none"}}, "not one that xmodal reads: 'none'"),
    ],
)
def test_models_with_other_parts_are_reported(tmp_path: Path, settings: dict, said: str) -> None:
    given = {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}} | settings
    (tmp_path / open_clip.CONFIG).write_text(json.dumps({"model_cfg": given}))
    with pytest.raises(UserError, match="no weights"):
        read_source(str(tmp_path))
    save_file({"logit_scale": torch.zeros(())}, tmp_path / open_clip.WEIGHTS[0])
    with pytest.raises(UserError, match=said):
        read_source(str(tmp_path))


@pytest.mark.parametrize(
    ("side", "changes", "said"),
    [
        ("text", {"pooling": "mean"}, "method.text.pooling"),
        ("text", {"causal": False}, "method.text.padding"),
        ("text", {"activation": "quick_gelu"}, "method.text.activation"),
        ("image", {"pooling": "attention"}, "which has no vision transformer of these sizes"),
    ],
)
def test_what_open_clip_cannot_build_is_reported(
    tmp_path: Path, tokenizer: CaptionTokenizer, side: str, changes: dict, said: str
) -> None:
    model = from_scratch()
    changed = replace(model, **{side: getattr(model, side).model_copy(update=changes)})
    with pytest.raises(UserError, match=f"open_clip's format cannot express.*{said}"):
        open_clip.write(changed, tokenizer, tmp_path / "it")
    assert not (tmp_path / "it").exists()
