"""Learned positions of texts, resized to another context."""

import pytest
import torch

from xmodal.models.positions import KEPT, fit_positions, resize_text_positions


def test_more_positions_keep_the_first_and_stretch_the_others() -> None:
    """Of CLIP's 77, as Long-CLIP makes 248: four for each from the 20th on, one between each."""
    draws = torch.Generator().manual_seed(0)
    own = torch.randn(77, 8, generator=draws)
    found = resize_text_positions(own, KEPT + 4 * (77 - KEPT - 1) + 1)
    assert found[:KEPT].equal(own[:KEPT])
    assert torch.allclose(found[KEPT::4], own[KEPT:], atol=1e-6)
    middle = (own[KEPT:-1] + own[KEPT + 1 :]) / 2
    assert torch.allclose(found[KEPT + 2 :: 4], middle, atol=1e-6)


@pytest.mark.parametrize("length", [78, 248, 512])
def test_positions_go_from_the_first_to_the_last(length: int) -> None:
    own = torch.arange(77.0)[:, None].expand(77, 3)
    found = resize_text_positions(own, length)
    assert found.shape == (length, 3)
    assert (found[0, 0], found[-1, 0]) == (0, 76)
    assert (found.diff(dim=0) > 0).all()


@pytest.mark.parametrize(("size", "length"), [(77, 32), (16, 40), (20, 21)])
def test_fewer_positions_and_few_are_interpolated_as_a_whole(size: int, length: int) -> None:
    own = torch.randn(size, 4, generator=torch.Generator().manual_seed(1))
    plain = torch.nn.functional.interpolate(own.T[None], length, mode="linear")[0].T
    assert resize_text_positions(own, length).equal(plain)


def test_the_log_has_a_line() -> None:
    name = "text.backbone.positions"
    _, line = fit_positions(name, torch.zeros(77, 4), torch.zeros(248, 4))
    said = "Resized the positions of the text encoder from 77 to 248"
    assert line == f"{said}; the first 20 stay"
    _, line = fit_positions(name, torch.zeros(248, 4), torch.zeros(77, 4))
    assert line == "Resized the positions of the text encoder from 248 to 77"
