"""Weights of convolutions in the layout of their inputs."""

import torch

from tests.models.towers import TEXT, features, two_towers
from xmodal.models.channels_last import lay_out_weights

RESNET = {"kind": "timm", "name": "test_resnet", "size": 32}


def test_convolutions_on_a_gpu_have_their_channels_last() -> None:
    plain, laid_out = two_towers(RESNET, TEXT), two_towers(RESNET, TEXT)
    lay_out_weights(plain, on_gpus=False)
    lay_out_weights(laid_out, on_gpus=True)
    convolutions = {n: p for n, p in laid_out.named_parameters() if p.ndim == 4 and p.shape[2] > 1}
    assert convolutions
    for name, weight in convolutions.items():
        assert weight.is_contiguous(memory_format=torch.channels_last), name
        assert plain.get_parameter(name).is_contiguous(), name
    before, after = plain.state_dict(), laid_out.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    for ours, theirs in zip(features(laid_out.eval()), features(plain.eval()), strict=True):
        torch.testing.assert_close(ours, theirs)
