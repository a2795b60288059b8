from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.formats.dual_encoders import built, differences
from tests.formats.reference_libraries import References
from xmodal.formats import hugging_face, sentence_transformers

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


def test_sentence_transformers_gives_the_same(references: References, folder: Path) -> None:
    made = references.folder("sentence_clip", folder / "clip")
    expected = load_file(made / "expected.safetensors")
    for name in ("today", "legacy"):
        found = differences(built(sentence_transformers.read(made / name)), expected)
        assert max(found.values()) < 1e-5, (name, found)
