"""The transformers of CLIP and SigLIP: what pooling and padding mean, of ours alone."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from tests.pretended_device import NAME, PretendedDevice, to_device, values_of
from xmodal.data.batch import Batch
from xmodal.errors import UserError
from xmodal.models.images.vit import Vit, VitConfig
from xmodal.models.texts.text_transformer import ClipTextConfig, TextTransformer

SMALL: dict[str, Any] = {"width": 16, "layers": 2, "heads": 2, "mlp": 24}
PAD, END = 0, 9


def text(**changes: Any) -> TextTransformer:
    torch.manual_seed(0)
    made: TextTransformer = ClipTextConfig(**SMALL, context=8, **changes).build(vocabulary=10)
    return made.eval()


def captions(*rows: list[int]) -> tuple[Tensor, Tensor]:
    length = max(map(len, rows))
    tokens = torch.tensor([row + [PAD] * (length - len(row)) for row in rows])
    return tokens, tokens != PAD


def pictures(size: int) -> Tensor:
    torch.manual_seed(0)
    return torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)


@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("pooling", ["end_of_text", "last", "class", "mean"])
def test_padding_that_is_masked_changes_nothing(pooling: str, *, causal: bool) -> None:
    encoder = text(pooling=pooling, causal=causal)
    alone = encoder(*captions([3, 4, END]))
    beside = encoder(*captions([3, 4, END], [1, 2, 3, 4, 5, END]))
    torch.testing.assert_close(beside[:1], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("pooling", ["end_of_text", "last", "class", "mean"])
def test_trimmed_captions_have_the_features_and_gradients_of_padded_ones(
    pooling: str, *, causal: bool
) -> None:
    torch.manual_seed(0)
    lengths = torch.randint(1, 8, (21,))
    tokens, mask = captions(*([*torch.randint(1, END, (n,)).tolist(), END] for n in lengths))
    found = {}
    for trim in (False, True):
        encoder = text(pooling=pooling, causal=causal, trim=trim)
        features = encoder(tokens, mask)
        features.square().mean().backward()
        found[trim] = [features, *(weight.grad for weight in encoder.parameters())]
    torch.testing.assert_close(found[True], found[False], rtol=1e-4, atol=1e-6)


def test_trimming_waits_for_no_device() -> None:
    encoder = text(pooling="mean", trim=True)
    tokens, mask = captions(*([3] * (number % 7) + [END] for number in range(20)))
    wanted = encoder(tokens, mask)
    with PretendedDevice() as device:
        to_device(encoder)
        moved = Batch(tokens=tokens, token_mask=mask).to(torch.device(NAME))
        found = encoder(*moved.texts)
        assert not device.waits
    torch.testing.assert_close(values_of(found), wanted)


def test_padding_that_is_attended_to_is_not_trimmed() -> None:
    with pytest.raises(ValidationError, match="trim removes padding"):
        ClipTextConfig(padding="attended", trim=True)


@torch.no_grad()
def test_padding_that_is_attended_to_counts() -> None:
    encoder = text(pooling="last", causal=False, padding="attended")
    short = encoder(*captions([3, 4, END]))
    padded = encoder(*captions([3, 4, END, PAD, PAD]))
    assert (short - padded).abs().max() > 1e-3


@torch.no_grad()
def test_each_pooling_takes_its_token() -> None:
    tokens, mask = captions([3, END, 4, 7], [3, 4, END])
    local = text(pooling="last").local(tokens, mask)
    states = text(pooling="last", padding="attended").local(tokens, mask).rows
    assert local.pooled.equal(states[[0, 1], [3, 2]])
    assert text(pooling="class").local(tokens, mask).pooled.equal(states[:, 0])
    assert text(pooling="end_of_text").local(tokens, mask).pooled.equal(states[[0, 1], [1, 2]])
    by_id = text(pooling="end_of_text", end=4).local(tokens, mask).pooled
    assert by_id.equal(states[[0, 1], [2, 1]])
    mean = text(pooling="mean").local(tokens, mask)
    torch.testing.assert_close(mean.pooled[1], states[1, :3].mean(0))
    assert not mean.rows[1, 3].any()


@torch.no_grad()
def test_a_causal_text_does_not_look_ahead() -> None:
    tokens, mask = captions([1, 2, 3, END])
    other, _ = captions([1, 2, 5, END])
    for causal in (True, False):
        encoder = text(causal=causal)
        same = encoder.local(tokens, mask).rows[:, :2].equal(encoder.local(other, mask).rows[:, :2])
        assert same == causal


@torch.no_grad()
@pytest.mark.parametrize(
    ("changes", "prefix"),
    [
        ({}, 1),
        ({"pooling": "mean"}, 1),
        ({"pooling": "attention", "class_token": False, "pre_norm": False, "patch_bias": True}, 0),
    ],
)
def test_images_have_their_positions(changes: dict[str, Any], prefix: int) -> None:
    encoder: Vit = VitConfig(**SMALL, size=24, patch=8, **changes).build().eval()
    local = encoder.local(pictures(24))
    assert local.rows.shape == (2, 9, 16)
    assert encoder.model.pos_embed.shape[1] == 9 + prefix
    assert encoder.model.blocks[0].mlp.fc1.out_features == 24
    if changes.get("pooling") == "mean":
        torch.testing.assert_close(local.pooled, local.rows.mean(1))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"heads": 3}, "3 heads do not divide width 16"),
        ({"size": 4}, "size=4 is less than a patch of 8"),
        ({"class_token": False}, "there is no class token"),
    ],
)
def test_images_that_no_network_reads_are_reported(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        VitConfig(**(SMALL | {"size": 16, "patch": 8} | changes)).build()


def test_a_vocabulary_of_its_own_is_as_large_as_it_says() -> None:
    assert text(token_ids=12).words.num_embeddings == text(token_ids=12).token_ids == 12
    assert text(token_ids=7).words.num_embeddings == 7
