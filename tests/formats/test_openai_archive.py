"""OpenAI's archives: the embeddings of open_clip, and no code of theirs."""

import pickle
import zipfile
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.formats.dual_encoders import built, differences
from tests.formats.reference_libraries import References
from xmodal.data.tokenizers.clip import ClipTokenizerConfig
from xmodal.errors import UserError
from xmodal.formats.source import read_source


def test_embeddings_are_those_of_open_clip(references: References) -> None:
    folder = references.folder("openai_archive")
    encoder = read_source(str(folder / "archive.pt"))
    found = differences(built(encoder), load_file(folder / "outputs.safetensors"))
    assert max(found.values()) < 1e-5, found
    assert encoder.text.tokenizer == ClipTokenizerConfig(folder=str(folder))  # beside the file
    assert (encoder.image.activation, encoder.image.heads) == ("quick_gelu", 2)


class Evil:
    """A pickle that would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def archive(path: Path, data: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("it/code/it.py", "")
        file.writestr("it/data.pkl", data)
    return path


def test_nothing_in_an_archive_is_executed(tmp_path: Path) -> None:
    evil = archive(tmp_path / "evil.pt", pickle.dumps(Evil(tmp_path / "touched")))
    with pytest.raises(UserError, match="it asks for pathlib"):
        read_source(str(evil))
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("data", [b"", b"no pickle", pickle.dumps({})])
def test_other_archives_are_reported(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(UserError, match="is no CLIP of OpenAI"):
        read_source(str(archive(tmp_path / "other.pt", data)))
