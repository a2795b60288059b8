"""Attention masks of the transformers library, made without looking for padding."""

from collections.abc import Callable
from functools import cache
from typing import Any

from torch import Tensor

from xmodal.devices import is_on_host

# The library's attention by PyTorch's kernels, under a name of ours.
NAME = "sdpa_of_any_mask"


def use_any_mask(model: Any) -> None:
    """Have a model mask padding on a device whether there is any.

    The library would look for it in the values of the mask, and wait for the device. On the host it
    looks, and where nothing is padded does without a mask.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    found = model.config._attn_implementation
    if found == "sdpa":
        AttentionInterface.register(NAME, AttentionInterface()["sdpa"])
        AttentionMaskInterface.register(NAME, _of_any_mask(AttentionMaskInterface()["sdpa"]))
        model.set_attn_implementation(NAME)
    elif found == "eager":
        # Such models have their attention in themselves, and take no other name. For all of them a
        # mask of zeros is what none is; only kernels of PyTorch are slower with one.
        AttentionMaskInterface.register("eager", _made_once())


@cache
def _made_once() -> Callable[..., Tensor | None]:
    from transformers import AttentionMaskInterface

    return _of_any_mask(AttentionMaskInterface()["eager"])


def _of_any_mask(make: Callable[..., Tensor | None]) -> Callable[..., Tensor | None]:
    def make_mask(*, attention_mask: Tensor | None = None, **given: Any) -> Tensor | None:
        if attention_mask is not None and not is_on_host(attention_mask):
            given |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        return make(attention_mask=attention_mask, **given)

    return make_mask
