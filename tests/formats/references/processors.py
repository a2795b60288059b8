"""Small tokenizers and image processors of the transformers library, one a family of models."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

TEXTS = ["A photo of two dogs, running!", "the café's cat", "", "snow " * 60]
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Processor:
    """A tokenizer, and how images are resized and normalised."""

    tokenizer: Callable[[], Any]
    images: str  # class of the image processor
    padding: dict[str, Any]
    mask: bool = True  # whether the model takes the mask of padding
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    squash: bool = False

    def encode(self) -> dict[str, torch.Tensor]:
        """Return the tokens of a few texts, as the model takes them."""
        encoded = self.tokenizer()(TEXTS, truncation=True, return_tensors="pt", **self.padding)
        names = ("input_ids", "attention_mask") if self.mask else ("input_ids",)
        return {name: encoded[name] for name in names}

    def write(self, folder: Path, size: int) -> None:
        """Write the files of both into the folder of a model, as they are on the hub."""
        square = {"height": size, "width": size}
        sizes = (
            {"size": square}
            if self.squash
            else {"size": {"shortest_edge": size}, "crop_size": square}
        )
        images = getattr(transformers, self.images)(
            image_mean=self.mean, image_std=self.std, **sizes
        )
        images.save_pretrained(folder)
        self.tokenizer().save_pretrained(folder)


def clip_tokenizer() -> Any:
    """Return byte pairs with the alphabet of CLIP, 600 ids."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges = [
        ("d", "o"),
        ("do", "g"),
        ("dog", "s</w>"),
        ("o", "f</w>"),
        ("t", "h"),
        ("th", "e</w>"),
    ]
    pieces += ["".join(merge) for merge in merges]
    pieces += [f"unused{number}" for number in range(598 - len(pieces))]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return transformers.CLIPTokenizer(vocabulary, merges, model_max_length=20)


@cache  # what is learned depends on the run
def siglip_tokenizer() -> Any:
    """Return a unigram model with an end token, which pads too, as SigLIP's."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=80, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        eos_token="</s>",
        pad_token="</s>",
        model_max_length=16,
    )


def siglip2_tokenizer() -> Any:
    """Return byte pairs with the special tokens of Gemma."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    pieces += [chr(letter) for letter in range(ord("!"), 127)]
    merges = [("d", "o"), ("do", "g"), ("dog", "s"), ("▁", "dogs")]
    pieces += ["".join(merge) for merge in merges]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = transformers.Siglip2Tokenizer(
        vocabulary, merges, model_max_length=16, padding_side="right"
    )
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    return tokenizer


def bert_tokenizer() -> Any:
    """Return word pieces of single letters."""
    letters = "abcdefghijklmnopqrstuvwxyz!,'"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    pieces += [f"##{letter}" for letter in letters[:26]]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return transformers.BertTokenizer(vocabulary, model_max_length=40)


LONGEST = {"padding": "max_length"}
CLIP = Processor(clip_tokenizer, "CLIPImageProcessor", {"padding": True}, True, CLIP_MEAN, CLIP_STD)
SIGLIP = Processor(siglip_tokenizer, "SiglipImageProcessor", LONGEST, False, squash=True)
SIGLIP2 = Processor(siglip2_tokenizer, "SiglipImageProcessor", LONGEST, False, squash=True)
CHINESE_CLIP = Processor(
    bert_tokenizer, "ChineseCLIPImageProcessor", {"padding": True}, True, CLIP_MEAN, CLIP_STD
)
