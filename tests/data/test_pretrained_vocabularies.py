"""Vocabularies of CLIP and SigLIP are found in a folder or package; what is none is one line."""

import gzip
import importlib
import sys
from pathlib import Path

import huggingface_hub
import pytest
from transformers.utils import sentencepiece_model_pb2_new as messages

from xmodal.data.tokenizers.clip import ClipTokenizerConfig
from xmodal.data.tokenizers.siglip import SiglipTokenizerConfig
from xmodal.data.tokens import read_tokenizer
from xmodal.errors import UserError

MERGES = "#version: 0.2\nd o\ndo g</w>\nc a\nca t</w>\n"


def clip_of(folder: Path | None, context: int = 6):
    return ClipTokenizerConfig(folder=folder and str(folder)).build((), context)


def siglip_of(folder: Path, context: int = 6):
    return SiglipTokenizerConfig(folder=str(folder)).build((), context)


def packed(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    with gzip.open(folder / "bpe_simple_vocab_16e6.txt.gz", "wt") as file:
        file.write(text)
    return folder


def test_ids_are_bytes_then_bytes_that_end_words_then_merges_then_special_ones(
    tmp_path: Path,
) -> None:
    (tmp_path / "merges.txt").write_text(MERGES)
    tokenizer = clip_of(tmp_path)
    start, end = 512 + 4, 512 + 5
    ids, mask = tokenizer(["Dog  &lt;cat", "dog dog dog dog dog dog", "!"])
    assert tokenizer.vocabulary == 518
    assert ids.tolist() == [
        [start, 513, 256 + ord("<") - ord("!"), 515, end, 0],
        [start, 513, 513, 513, 513, end],
        [start, 256, end, 0, 0, 0],
    ]
    assert mask.sum(1).tolist() == [5, 6, 3]
    assert clip_of(packed(tmp_path / "gz", MERGES))(["dog"])[0].tolist() == [[start, 513, end]]


def test_a_run_reads_its_file_with_the_same_cleaning(tmp_path: Path) -> None:
    (tmp_path / "merges.txt").write_text(MERGES)
    tokenizer = clip_of(tmp_path)
    tokenizer.save(tmp_path / "tokenizer.json")
    again = read_tokenizer(tmp_path / "tokenizer.json", 6, "clip")
    captions = ["CAT's  <end_of_text>", "", "d\u00e9j\u00e0 vu &amp; a dog"]
    for one, other in zip(tokenizer(captions), again(captions), strict=True):
        assert one.equal(other)


def test_an_installed_open_clip_is_read_and_never_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = packed(tmp_path / "open_clip", MERGES)
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    assert clip_of(None).vocabulary == 518
    assert clip_of(tmp_path).vocabulary == 518  # a folder that has none itself
    assert "open_clip" not in sys.modules


def test_without_any_vocabulary_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: str) -> str:
        raise OSError("no route to host\nand more")

    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr("xmodal.data.cleaning.require", lambda _: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(UserError, match=r"give it \(.*\): pip install open_clip_torch") as error:
        clip_of(None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("broken", ["no gzip", "cut", "no text", "unknown parts"])
def test_a_broken_vocabulary_is_one_line(tmp_path: Path, broken: str) -> None:
    file = packed(tmp_path, MERGES) / "bpe_simple_vocab_16e6.txt.gz"
    whole = file.read_bytes()
    file.write_bytes(
        {
            "no gzip": b"merges",
            "cut": whole[:-12],
            "no text": gzip.compress(b"\xff\xfe"),
            "unknown parts": gzip.compress(b"#\nqq zz\n"),
        }[broken]
    )
    with pytest.raises(UserError, match="holds no merges") as error:
        clip_of(tmp_path)
    assert "\n" not in str(error.value)


def sentencepiece(folder: Path, *, kind: int = 1, table: bytes = b"") -> Path:
    """Write a small model of sentencepiece: of unigrams (1), or of byte pairs (2)."""
    model = messages.ModelProto()
    for piece, score in (
        ("</s>", 0),
        ("<unk>", 0),
        ("▁dog", -1),
        ("s", -2),
        ("▁", -3),
        ("cat", -4),
    ):
        model.pieces.add(piece=piece, score=score)
    model.trainer_spec.model_type = kind
    model.trainer_spec.unk_id = 1
    model.normalizer_spec.precompiled_charsmap = table
    (folder / "spiece.model").write_bytes(model.SerializeToString())
    return folder


def test_siglip_pads_to_the_context_with_its_end_and_padding_counts(tmp_path: Path) -> None:
    ids, mask = siglip_of(sentencepiece(tmp_path))(["DOGS!", "dog cat 猫 dog dog dog dog", ""])
    assert ids.tolist() == [[2, 3, 0, 0, 0, 0], [2, 4, 5, 4, 1, 0], [0, 0, 0, 0, 0, 0]]
    assert mask.all()


def test_what_is_no_model_of_siglip_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no spiece\.model"):
        siglip_of(tmp_path)
    with pytest.raises(UserError, match="no unigram model"):
        siglip_of(sentencepiece(tmp_path, kind=2))
    for table in (b"\x01", b"\xff" * 16):
        with pytest.raises(UserError, match="broken") as error:
            siglip_of(sentencepiece(tmp_path, table=table))
        assert "\n" not in str(error.value)
    (tmp_path / "spiece.model").write_bytes(b"\xff no message")
    with pytest.raises(UserError, match="no sentencepiece model"):
        siglip_of(tmp_path)
