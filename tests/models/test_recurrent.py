"""The GRU and the LSTM against their equations, one caption and one word at a time."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xmodal.models.texts.gru import Gru
from xmodal.models.texts.lstm import Lstm
from xmodal.models.texts.recurrent import Recurrent

WORDS = 12
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [1, 1, 1, 0, 0]], dtype=torch.bool)
TOKENS = torch.tensor([[1, 2, 3, 4, 5], [6, 0, 0, 0, 0], [7, 1, 8, 0, 0]])
KINDS = pytest.mark.parametrize(
    "kind",
    [
        {"kind": cell, "layers": layers, "bidirectional": bidirectional, "pooling": pooling}
        for cell in ("gru", "lstm")
        for layers, bidirectional in ((1, False), (1, True), (2, False), (2, True))
        for pooling in ("last", "max")
    ],
    ids=str,
)


def made(kind: str = "gru", **options: Any) -> Recurrent:
    torch.manual_seed(0)
    network = {"gru": Gru, "lstm": Lstm}[kind]
    encoder = network(WORDS, word=4, width=3, **options)
    nn.init.normal_(encoder.words.weight, std=3)  # far apart, so that states rise and fall
    return encoder


def read(encoder: Recurrent, states: list[Tensor], layer: int, *, backwards: bool) -> list[Tensor]:
    """The states of one direction of a layer, by torch's formulas."""
    end = f"l{layer}{'_reverse' if backwards else ''}"
    of_input, of_state, input_bias, state_bias = (
        getattr(encoder.states, f"{name}_{end}")
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    h = c = states[0].new_zeros(encoder.states.hidden_size)
    read_states = []
    for x in reversed(states) if backwards else states:
        from_input, from_state = of_input @ x + input_bias, of_state @ h + state_bias
        if encoder.states.mode == "LSTM":
            i, f, g, o = (from_input + from_state).chunk(4)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        else:
            (r, z, n), (hr, hz, hn) = from_input.chunk(3), from_state.chunk(3)
            z = (z + hz).sigmoid()
            h = (1 - z) * (n + (r + hr).sigmoid() * hn).tanh() + z * h
        read_states.append(h)
    return read_states


def by_hand(encoder: Recurrent, tokens: Tensor) -> Tensor:
    """The last states of one caption without padding, or the greatest of its words'."""
    states = list(encoder.words.weight[tokens])
    for layer in range(encoder.states.num_layers):
        directions = [
            read(encoder, states, layer, backwards=backwards)
            for backwards in (False, True)[: encoder.directions]
        ]
        last = torch.cat([states[-1] for states in directions])
        directions = [directions[0], *(states[::-1] for states in directions[1:])]
        states = [torch.cat(of_word) for of_word in zip(*directions, strict=True)]
    return torch.stack(states).amax(0) if encoder.pooling == "max" else last


@KINDS
def test_features_are_the_last_states_or_the_greatest(kind: dict[str, Any]) -> None:
    encoder = made(**kind).double()
    features = encoder(TOKENS, MASK)
    assert features.shape == (3, encoder.features)
    expected = torch.stack(
        [by_hand(encoder, row[mask]) for row, mask in zip(TOKENS, MASK, strict=True)]
    )
    torch.testing.assert_close(features, expected, rtol=1e-10, atol=1e-10)
    weights = torch.randn(features.shape, dtype=torch.float64)
    parameters = list(encoder.parameters())
    for ours, theirs in zip(
        torch.autograd.grad((features * weights).sum(), parameters),
        torch.autograd.grad((expected * weights).sum(), parameters),
        strict=True,
    ):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


@KINDS
def test_padding_changes_nothing(kind: dict[str, Any]) -> None:
    encoder = made(**kind)
    padded = TOKENS.masked_fill(~MASK, 9)
    expected = encoder.local(TOKENS, MASK)
    for got in (
        encoder.local(padded, MASK),
        encoder.local(torch.cat([padded, padded], 1), torch.cat([MASK, MASK & False], 1)),
    ):
        assert torch.equal(got.pooled, expected.pooled)
        assert torch.equal(got.rows[:, :5], expected.rows)
        assert not got.rows[~got.mask].any()
    alone = torch.cat(
        [encoder(TOKENS[i : i + 1, :n], MASK[i : i + 1, :n]) for i, n in ((0, 5), (1, 1), (2, 3))]
    )
    torch.testing.assert_close(alone, expected.pooled, rtol=1e-5, atol=1e-6)


@KINDS
def test_its_parts_are_the_words_and_not_states(kind: dict[str, Any]) -> None:
    encoder = made(**kind)
    local = encoder.local(TOKENS, MASK)
    assert local.rows.shape == (3, 5, encoder.local_features) == (3, 5, 4)
    assert torch.equal(local.rows[MASK], encoder.words.weight[TOKENS[MASK]])
    assert torch.equal(local.mask, MASK)
    assert torch.equal(local.pooled, encoder(TOKENS, MASK))


def test_dropout_is_of_words_and_in_training_alone() -> None:
    encoder = made(dropout=0.5)
    rows = encoder.train().local(TOKENS, MASK).rows[MASK]
    kept = rows != 0
    assert 0 < kept.float().mean() < 1
    torch.testing.assert_close(rows[kept], 2 * encoder.words.weight[TOKENS[MASK]][kept])
    assert torch.equal(encoder.eval()(TOKENS, MASK), made().eval()(TOKENS, MASK))


def test_words_begin_small_as_those_of_vse() -> None:
    words = Gru(500).words.weight
    assert words.shape == (500, 300)
    assert 0.0999 < words.abs().max() <= 0.1


def test_words_begin_as_those_of_tirg() -> None:
    words = Lstm(500).words.weight
    assert words.shape == (500, 512)
    torch.testing.assert_close(words.std(), torch.tensor(1.0), rtol=0.01, atol=0)


def test_one_without_words_yet_can_be_made() -> None:
    assert Gru(0, width=8, bidirectional=True).features == 16


@KINDS
def test_under_bf16_it_stays_in_float32(
    kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Autocast would have cuDNN compute in float16, in which small gradients vanish."""
    encoder = made(**kind)
    name = encoder.states.mode.lower()
    kernel, seen = getattr(torch._VF, name), []

    def watched(words: Tensor, *rest: Any) -> Any:
        seen.append((words.dtype, torch.is_autocast_enabled("cpu")))
        return kernel(words, *rest)

    monkeypatch.setattr(torch._VF, name, watched)
    with torch.autocast("cpu", torch.bfloat16):
        features = encoder(TOKENS, MASK)
    assert seen == [(torch.float32, False)]
    assert torch.equal(features, encoder(TOKENS, MASK))
    (1e-9 * features.sum()).backward()
    assert all(p.grad.dtype == torch.float32 for p in encoder.parameters())
    assert all((p.grad != 0).any() for p in encoder.states.parameters())
