"""Token ids equal those of the libraries that the models come from, on 1,000 captions."""

import json
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.data.unicode_captions import captions
from tests.formats.reference_libraries import PYTHON, References
from tests.pretrained_models import small_model
from xmodal.assembly.vocabulary import load_tokenizer, make_tokenizer
from xmodal.data.tokenizers import clip
from xmodal.data.tokenizers.clip import ClipTokenizerConfig
from xmodal.data.tokenizers.config import TokenizerConfig
from xmodal.data.tokenizers.siglip import SiglipTokenizerConfig
from xmodal.errors import UserError
from xmodal.formats import open_clip
from xmodal.formats.source import read_source
from xmodal.formats.tokenizer_files import write_tokenizer
from xmodal.methods.clip import ClipConfig
from xmodal.models.texts.pretrained import PretrainedTokenizerConfig
from xmodal.models.texts.text_transformer import ClipTextConfig


class Family(NamedTuple):
    """A family of tokenizers: ours for a folder, and its fixed length."""

    ours: partial[TokenizerConfig]
    context: int
    padded: bool = False


FAMILIES = {
    "open_clip_own": Family(partial(ClipTokenizerConfig), 77),
    "clip": Family(partial(PretrainedTokenizerConfig), 77),
    "chinese_clip": Family(partial(PretrainedTokenizerConfig), 52),
    "siglip": Family(partial(SiglipTokenizerConfig), 64, padded=True),
    "siglip2": Family(partial(PretrainedTokenizerConfig, pads="context"), 64, padded=True),
    "open_clip_siglip": Family(
        partial(PretrainedTokenizerConfig, clean="canonicalize", pads="context"), 64, padded=True
    ),
}
CAPTIONS = captions(1000)
TEXT = {
    "kind": "clip_text",
    "tokenizer": {"kind": "clip"},
    "token_ids": 49408,
    "pooling": "end_of_text",
    "width": 8,
    "layers": 1,
    "heads": 2,
    "mlp": 8,
}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The captions as a file that scripts of references read."""
    path = tmp_path_factory.mktemp("captions") / "captions.json"
    path.write_text(json.dumps(CAPTIONS))
    return path


def method_of(family: Family, folder: Path) -> ClipConfig:
    """Return a method whose text encoder reads by a tokenizer of a folder."""
    name = "name" if family.ours.func is PretrainedTokenizerConfig else "folder"
    tokenizer = family.ours(**{name: str(folder)})
    text = ClipTextConfig(tokenizer=tokenizer, context=family.context)
    return ClipConfig(image={"kind": "features", "features": 8}, text=text)


@pytest.mark.parametrize("name", FAMILIES)
def test_ids_equal_the_librarys_and_a_run_needs_its_file_alone(
    name: str, references: References, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = FAMILIES[name]
    wanted = references.tensors("token_ids", texts)[name]
    folder = references.folder("token_ids", texts) / name
    method = method_of(family, folder)
    make_tokenizer(method, [], tmp_path / "tokenizer.json")
    gone = folder.rename(folder.with_name(f"{folder.name}-gone"))
    try:
        tokenizer = load_tokenizer(method, tmp_path / "tokenizer.json")
        ids, mask = tokenizer(CAPTIONS)
    finally:
        gone.rename(folder)
    assert ids.shape[1] == wanted.shape[1] == family.context
    differing = [CAPTIONS[row] for row in (ids != wanted).any(1).nonzero().flatten().tolist()]
    assert not differing, f"{len(differing)}, the first: {differing[0]!r:.100}"
    assert bool(mask.all()) == family.padded
    assert (ids[~mask] == tokenizer.pad).all()


@pytest.mark.parametrize("name", ["clip", "chinese_clip", "siglip2"])
def test_ids_of_a_written_tokenizer_equal_the_librarys(
    name: str, references: References, texts: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    folder = references.folder("token_ids", texts) / name
    text = method_of(FAMILIES[name], folder).text
    write_tokenizer(text.tokenizer.build(iter(()), text.context), text.tokenizer, tmp_path)
    written = AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False)
    padded = {"padding": "max_length", "truncation": True, "max_length": text.context}
    ids = written(CAPTIONS, return_tensors="pt", **padded)["input_ids"]
    assert ids.equal(references.tensors("token_ids", texts)[name])


def test_clips_vocabulary_is_read_from_any_of_its_files(
    references: References, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (library,) = PYTHON.parents[1].glob("lib/*/site-packages/open_clip")
    tokenizer = clip.clip_tokenizer((), 77, folder=str(library))
    monkeypatch.setattr(clip, "_in_open_clip", lambda: None)
    monkeypatch.setattr(clip, "HUB", "no/such")
    of_run, hugging_face, exported = (tmp_path / name for name in ("run", "hf", "exported"))
    of_run.mkdir(), hugging_face.mkdir()
    tokenizer.save(of_run / "tokenizer.json")
    write_tokenizer(tokenizer, ClipTokenizerConfig(), hugging_face)
    for other in hugging_face.glob("*.txt"):
        other.unlink()
    open_clip.write(small_model(text=TEXT), tokenizer, exported)
    read = read_source(str(exported)).text.tokenizer
    assert read == ClipTokenizerConfig(folder=str(exported))
    wanted, _ = tokenizer(CAPTIONS[:100])
    for folder in (of_run, hugging_face, exported):
        ids, _ = ClipTokenizerConfig(folder=str(folder)).build((), 77)(CAPTIONS[:100])
        assert ids.equal(wanted), folder.name
    (tmp_path / "merges.txt").write_text("#version: 0.2\nĠ t\nh e\n")
    with pytest.raises(UserError, match=r"holds no merges of CLIP's .*do not end in </w>"):
        ClipTokenizerConfig(folder=str(tmp_path)).build((), 77)
