import pytest
from safetensors.torch import load_file

from tests.formats.dual_encoders import built, differences
from tests.formats.reference_libraries import References
from xmodal.formats import big_vision


@pytest.mark.slow
@pytest.mark.parametrize("name", ["separate", "stacked"])
def test_embeddings_are_those_of_open_clip(references: References, name: str) -> None:
    folder = references.folder("big_vision_arrays")
    (folder / "tokenizer.json").touch()  # of these few ids none is known
    model = big_vision.read(folder / f"{name}.npz")
    assert (model.image.size, model.image.patch, model.image.heads) == (24, 8, 4)
    found = differences(built(model), load_file(folder / f"{name}.safetensors"))
    assert max(found.values()) < 1e-5, found
