import torch

from xmodal.models.encoder import cached_local, masked_local, masked_mean


def test_masked_mean_is_the_mean_where_the_mask_is() -> None:
    states = torch.arange(12.0).view(2, 3, 2)
    mask = torch.tensor([[True, False, False], [True, True, False]])
    assert masked_mean(states, mask).tolist() == [[0, 1], [7, 8]]


def test_words_are_zero_beyond_the_mask_whatever_the_encoder_left_there() -> None:
    states = torch.arange(12.0).view(2, 3, 2)
    states[:, 2] = 1e9
    mask = torch.tensor([[True, False, False], [True, True, False]])
    local = masked_local(states, mask)
    assert local.rows.tolist() == [[[0, 1], [0, 0], [0, 0]], [[6, 7], [8, 9], [0, 0]]]
    assert local.mask is mask
    assert local.pooled.tolist() == [[0, 1], [7, 8]]


def test_cached_features_of_an_item_are_one_position() -> None:
    features = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    local = cached_local(features)
    assert local.rows.tolist() == [[[1, 2]], [[0, 0]]]
    assert local.mask.tolist() == [[True], [True]]
    assert torch.equal(local.pooled, features)


def test_cached_rows_of_zeros_are_padding_but_the_first_one_counts() -> None:
    features = torch.tensor([[[1.0, 0], [3, 2], [0, 0]], [[0, 0], [0, 0], [0, 0]]])
    local = cached_local(features)
    assert torch.equal(local.rows, features)
    assert local.mask.tolist() == [[True, True, False], [True, False, False]]
    assert local.pooled.tolist() == [[2, 1], [0, 0]]


def test_what_was_cached_is_what_was_encoded() -> None:
    states = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, False, False], [True, True, True]])
    encoded = masked_local(states, mask)
    for ours, expected in zip(cached_local(encoded.rows), encoded, strict=True):
        torch.testing.assert_close(ours, expected)
