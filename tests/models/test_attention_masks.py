"""Masks of text encoders of transformers: made on a device without a look at their values."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.pretended_device import NAME, PretendedDevice, to_device, values_of
from tests.processes import on_ranks
from xmodal.models.texts.attention_masks import use_any_mask
from xmodal.models.texts.pretrained import PretrainedText

VOCABULARY, LENGTH = 30, 6
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 70,
}
KINDS: dict[str, dict[str, Any]] = {
    "bert": SIZES,
    "distilbert": {
        "vocab_size": VOCABULARY,
        "dim": 16,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 32,
    },
    "xlm-roberta": SIZES,
    # Of two layers one sees two tokens to either side.
    "modernbert": SIZES
    | {"pad_token_id": 0, "local_attention": 4, "global_attn_every_n_layers": 2},
    "clip_text_model": SIZES,  # sees tokens before alone
    "mpnet": SIZES,  # its attention is its own
}
TOKENS = torch.arange(8 * LENGTH).reshape(8, LENGTH) % VOCABULARY
MASKS = {
    "padded": torch.arange(LENGTH) < torch.arange(8)[:, None] % LENGTH + 1,
    "whole": torch.ones(8, LENGTH, dtype=torch.bool),
}
Found = dict[str, tuple[list[str], Tensor, Tensor]]


def encoder(kind: str) -> PretrainedText:
    torch.manual_seed(0)
    settings = {"model_type": kind} | KINDS[kind]
    return PretrainedText(kind, weights="random", settings=settings).eval()


@torch.no_grad()
def encode_all() -> Found:
    """Encode on the pretended device and on the host: waits, features there and here."""
    found, device = {}, PretendedDevice()
    for kind in KINDS:
        here, there = encoder(kind), encoder(kind)
        with device:
            to_device(there)
        for name, mask in MASKS.items():
            with device:
                given = [one.to(torch.device(NAME, 0)) for one in (TOKENS, mask)]
                device.waits.clear()
                features = values_of(there(*given))
            found[f"{kind}, {name}"] = list(device.waits), features, here(TOKENS, mask)
    return found


@pytest.fixture(scope="module")
def found() -> Found:
    of_rank: Found = on_ranks(1, encode_all)[0]
    return of_rank


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_device_is_not_asked_for_padding(kind: str, mask: str, found: Found) -> None:
    waits, there, here = found[f"{kind}, {mask}"]
    assert waits == []
    torch.testing.assert_close(there, here)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_the_host_encodes_as_the_library_does(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = encoder(kind)
    monkeypatch.setattr(f"{PretrainedText.__module__}.{use_any_mask.__name__}", lambda _: None)
    library = encoder(kind)
    assert library.model.config._attn_implementation == ("eager" if kind == "mpnet" else "sdpa")
    for mask in MASKS.values():
        assert torch.equal(ours(TOKENS, mask), library(TOKENS, mask))
