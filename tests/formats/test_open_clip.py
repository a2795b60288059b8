"""Models of open_clip: their embeddings by our towers, and what is reported."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.formats.dual_encoders import built, differences
from tests.formats.reference_libraries import References
from xmodal.formats.source import read_source

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


@pytest.mark.parametrize("name", MODELS)
def test_embeddings_are_those_of_open_clip(references: References, name: str) -> None:
    folder = folder_of(references, name)
    method = built(read_source(str(folder)))
    found = differences(method, load_file(folder / "outputs" / "outputs.safetensors"))
    assert max(found.values()) < BOUND, found
