"""Models cut to a width embed as the first numbers of the whole model's embeddings."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import xmodal
from tests.assembly.test_export import CAPTIONS, PIXELS, SMALL_CLIP, model_of
from xmodal.assembly.build import build_method
from xmodal.assembly.export import _dual_encoder, export
from xmodal.assembly.model_digest import model_digest
from xmodal.assembly.recipe import read_recipe
from xmodal.data.tokenizers.byte_pair import train_tokenizer
from xmodal.errors import UserError
from xmodal.objectives.feature_distillation import FeatureDistillation
from xmodal.search.embeddings import ModelInfo

MATRYOSHKA = "method.objective={kind: matryoshka, widths: [2, 4, 8]}"
PROXIES = "{kind: norm_softmax, classes: 5}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An exported model that is trained at widths 2, 4 and 8."""
    return exported(tmp_path, MATRYOSHKA)


def exported(tmp_path: Path, *words: str) -> Path:
    recipe = read_recipe("clip", ["data.train=x", "data.val=y", *SMALL_CLIP, *words])
    tokenizer = train_tokenizer(4 * CAPTIONS, 8)
    method = build_method(recipe, tokenizer.vocabulary, torch.device("cpu"))
    model = xmodal.Model(method.eval(), recipe, tokenizer, torch.device("cpu"))
    export(model, tmp_path / "whole", "xmodal")
    return tmp_path / "whole"


def test_embeddings_are_the_first_numbers_at_length_1(folder: Path) -> None:
    whole, cut = xmodal.load(folder), xmodal.load(folder, width=4)
    for got, every in (
        (cut.encode_images(list(PIXELS)), whole.encode_images(list(PIXELS))),
        (cut.encode_texts(CAPTIONS), whole.encode_texts(CAPTIONS)),
    ):
        assert got.shape == (3, 4)
        torch.testing.assert_close(got, F.normalize(every[:, :4], dim=1))


def test_what_is_exported_at_a_width_has_that_width(folder: Path, tmp_path: Path) -> None:
    cut = xmodal.load(folder, width=4)
    export(cut, tmp_path / "cut", "xmodal")
    loaded = xmodal.load(tmp_path / "cut")
    assert loaded.recipe.method.embedding == 4
    assert loaded.recipe.method.objective.kind == "info_nce"
    assert torch.equal(loaded.encode_texts(CAPTIONS), cut.encode_texts(CAPTIONS))


@pytest.mark.parametrize(
    ("objective", "kept"),
    [
        (f"method.objective={PROXIES}", "loss.proxies.weight"),
        (
            f"method.objective={{kind: matryoshka, widths: [2, 5, 8], objective: {PROXIES}}}",
            "loss.objective.proxies.weight",
        ),
    ],
)
def test_proxies_are_cut_with_the_embeddings(tmp_path: Path, objective: str, kept: str) -> None:
    folder = exported(tmp_path, objective)
    before = xmodal.load(folder).method.state_dict()[kept]
    export(xmodal.load(folder, width=4), tmp_path / "cut", "xmodal")
    loaded = xmodal.load(tmp_path / "cut")
    assert loaded.recipe.method.objective.kind == "norm_softmax"
    assert torch.equal(loaded.method.state_dict()["loss.proxies.weight"], before[:, :4])


def test_a_moving_average_is_cut_with_the_embeddings(tmp_path: Path) -> None:
    information = "{kind: mutual_information, estimator: dv}"
    of_widths = f"{{kind: matryoshka, widths: [2, 5, 8], objective: {information}}}"
    folder = exported(tmp_path, f"method.objective={of_widths}")
    assert xmodal.load(folder).method.loss.objective.log_average.shape == (3,)
    export(xmodal.load(folder, width=4), tmp_path / "cut", "xmodal")
    assert xmodal.load(tmp_path / "cut").method.loss.log_average.shape == ()


def test_averages_of_samples_are_those_of_one_width_afterwards(tmp_path: Path) -> None:
    averages = "{kind: matryoshka, widths: [2, 5, 8], objective: {kind: global_contrastive}}"
    folder = exported(tmp_path, f"method.objective={averages}")
    assert xmodal.load(folder).method.loss.objective.averages.values == 6
    assert xmodal.load(folder, width=4).method.loss.averages.values == 2


@pytest.mark.parametrize(("teacher", "width"), [(6, 4), (4, 4), (8, 4), (8, 8)])
def test_a_cut_student_is_loaded(tmp_path: Path, teacher: int, width: int) -> None:
    given = ["method.kind=distilled", f"method.teacher_embedding={teacher}"]
    given += ["data.teacher={source: x, features: x}", "stages.0.losses={affinity: 1, features: 1}"]
    folder = exported(tmp_path, MATRYOSHKA, *given)
    cut = xmodal.load(folder, width=width)
    export(cut, tmp_path / "cut", "xmodal")
    loaded = xmodal.load(tmp_path / "cut")
    assert torch.equal(loaded.encode_texts(CAPTIONS), cut.encode_texts(CAPTIONS))


def test_a_projection_to_the_teacher_is_cut_with_the_student() -> None:
    x, taught = torch.randn(3, 8), torch.randn(3, 8)
    x[:, 4:] = 0
    for whole in (
        FeatureDistillation(embedding=8, teacher_embedding=8),
        FeatureDistillation(embedding=8, teacher_embedding=6),
    ):
        target = taught[:, : whole.teacher_embedding]
        whole_loss = whole(x, x, target, target)
        cut = whole.cut(4)
        torch.testing.assert_close(cut(x[:, :4], x[:, :4], target, target), whole_loss)


def test_a_card_has_no_metrics_of_other_numbers(folder: Path, tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    results.write_text('{"rsum": 123.4}')
    for width, is_cut in ((8, False), (4, True)):
        to = tmp_path / f"{width}"
        lines = export(xmodal.load(folder, width=width), to, "xmodal", results=results)
        assert ("123.4" in (to / "README.md").read_text()) != is_cut
        assert any("the first 4 of the 8 numbers" in line for line in lines) == is_cut


def test_another_library_gets_the_scale_of_all_widths(folder: Path) -> None:
    encoder = _dual_encoder(xmodal.load(folder), "open_clip")
    assert encoder.embedding == 8
    assert encoder.objective.kind == "info_nce"
    assert "loss.log_scale" in encoder.weights


def test_embeddings_of_a_width_are_of_another_model(folder: Path) -> None:
    digests = {model_digest(xmodal.load(folder, width=width)) for width in (None, 2, 4)}
    assert len(digests) == 3
    # Descriptions of before have no width.
    assert ModelInfo(source="x", method="clip", digest="y").width is None


@pytest.mark.parametrize(
    ("width", "message"),
    [
        (9, "width 9: give one of 1 to 8, those of embeddings"),
        (0, "width 0: give one of 1 to 8, those of embeddings"),
        ("4", "width '4': it is a whole number"),
        (True, "width True: it is a whole number"),
    ],
)
def test_a_width_that_there_is_not_is_refused(folder: Path, width: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        xmodal.load(folder, width=width)


def test_models_without_heads_or_of_other_methods_are_refused(tmp_path: Path) -> None:
    export(model_of("vsepp"), tmp_path / "vsepp", "xmodal")
    with pytest.raises(UserError, match="embeddings of kind: vsepp cannot be cut"):
        xmodal.load(tmp_path / "vsepp", width=4)
