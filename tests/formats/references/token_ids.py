"""Write a tokenizer of each family, and the ids that its library gives for captions.

FOLDER/FAMILY gets the tokenizer's files, FOLDER/ids.safetensors the ids (captions, context) by
family; the captions are a JSON list. Where a family has no vocabulary in its package, a small one
is learned from them.
"""

import argparse
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import open_clip
import sentencepiece
import torch
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer, UnigramTrainer
from transformers import (
    AutoTokenizer,
    BertTokenizerFast,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    Siglip2Tokenizer,
    SiglipTokenizer,
)

VOCABULARY = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
Ids = Callable[[list[str]], torch.Tensor]


def fixed(tokenizer: Callable, context: int) -> Ids:
    """Return the ids of a tokenizer of transformers, padded to the context."""
    options = {"padding": "max_length", "truncation": True, "max_length": context}
    return lambda texts: tokenizer(texts, return_tensors="pt", **options).input_ids


def with_config(folder: Path, kind: str) -> Path:
    """Write the part of a config.json by which transformers finds a tokenizer's class."""
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    return folder


def open_clip_own(folder: Path, texts: list[str]) -> Ids:
    """open_clip's own tokenizer, whose vocabulary is in its package."""
    shutil.copy(VOCABULARY, folder)
    return SimpleTokenizer()


def clip(folder: Path, texts: list[str]) -> Ids:
    """Hugging Face's CLIP, with the same vocabulary."""
    merges = gzip.decompress(VOCABULARY.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    own = dict(SimpleTokenizer().encoder)
    for ours, theirs in (
        ("<start_of_text>", "<|startoftext|>"),
        ("<end_of_text>", "<|endoftext|>"),
    ):
        own[theirs] = own.pop(ours)
    pairs = [tuple(line.split()) for line in merges]
    CLIPTokenizer(own, pairs, model_max_length=77).save_pretrained(with_config(folder, "clip"))
    return fixed(AutoTokenizer.from_pretrained(folder), 77)


def siglip(folder: Path, texts: list[str]) -> Ids:
    """SigLIP's sentencepiece, as Hugging Face reads it."""
    learned = [line for text in texts for line in text.lower().split("\n") if len(line) < 300]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(learned),
        model_prefix=str(folder / "spiece"),
        vocab_size=1200,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        character_coverage=0.98,
        minloglevel=2,
    )
    (folder / "spiece.vocab").unlink()
    tokenizer = SiglipTokenizer(str(folder / "spiece.model"))
    tokenizer.save_pretrained(with_config(folder, "siglip"))
    return fixed(tokenizer, 64)


def open_clip_siglip(folder: Path, texts: list[str]) -> Ids:
    """SigLIP's in open_clip: T5's tokenizer.json, captions in canonical form."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(
        (text for text in texts if text.isascii()),
        UnigramTrainer(vocab_size=1200, special_tokens=special, unk_token="<unk>"),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    names = {"pad_token": "</s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return HFTokenizer(str(folder), context_length=64, clean="canonicalize")


def siglip2(folder: Path, texts: list[str]) -> Ids:
    """SigLIP 2's Gemma tokenizer."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    special += [f"<0x{byte:02X}>" for byte in range(256)]
    learned = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    learned.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace(" ", "▁")]
    )
    learned.train_from_iterator(
        texts, BpeTrainer(vocab_size=1200, special_tokens=special, limit_alphabet=300)
    )
    model = json.loads(learned.to_str())["model"]
    tokenizer = Siglip2Tokenizer(
        model["vocab"],
        [tuple(pair) for pair in model["merges"]],
        add_bos_token=False,
        add_eos_token=True,
        padding_side="right",
    )
    tokenizer.save_pretrained(with_config(folder, "siglip2"))
    return fixed(AutoTokenizer.from_pretrained(folder), 64)


def chinese_clip(folder: Path, texts: list[str]) -> Ids:
    """ChineseCLIP's BERT."""
    letters = sorted({letter for text in texts for letter in text.lower()})[:900]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "dog", "##s", "photo", *letters]
    words += [f"##{letter}" for letter in letters]
    file = folder / "vocab.txt"
    file.write_text("\n".join(word for word in words if not word.isspace()), encoding="utf-8")
    BertTokenizerFast(str(file)).save_pretrained(with_config(folder, "chinese_clip"))
    return fixed(AutoTokenizer.from_pretrained(folder), 52)


FAMILIES = (open_clip_own, clip, siglip, open_clip_siglip, siglip2, chinese_clip)

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("captions", type=Path)
given = parser.parse_args()
captions = json.loads(given.captions.read_text())
ids = {}
for family in FAMILIES:
    (given.folder / family.__name__).mkdir()
    ids[family.__name__] = family(given.folder / family.__name__, captions)(captions).contiguous()
save_file(ids, given.folder / "ids.safetensors")
