"""Attention masks of the transformers library, made without looking for padding."""

from typing import Any

from torch import Tensor

from xmodal.devices import is_on_host

# The library's attention by PyTorch's kernels, under a name of ours.
NAME = "sdpa_of_any_mask"


def use_any_mask(model: Any) -> None:
    """Have a model whose attention is PyTorch's mask padding on a device whether there is any.

    The library would look for it in the values of the mask, and wait for the device. On the host it
    looks, and where nothing is padded its kernels do without a mask.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    if model.config._attn_implementation != "sdpa":
        return
    make = AttentionMaskInterface()["sdpa"]

    def make_mask(*, attention_mask: Tensor | None = None, **given: Any) -> Tensor | None:
        if attention_mask is not None and not is_on_host(attention_mask):
            given |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        mask: Tensor | None = make(attention_mask=attention_mask, **given)
        return mask

    AttentionInterface.register(NAME, AttentionInterface()["sdpa"])
    AttentionMaskInterface.register(NAME, make_mask)
    model.set_attn_implementation(NAME)
