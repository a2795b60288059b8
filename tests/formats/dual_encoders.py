"""Methods that formats describe, and how far their embeddings are from the reference's."""

from collections.abc import Mapping

import torch
from torch import Tensor

from xmodal.formats.dual_encoder import DualEncoder
from xmodal.methods.clip import Clip, ClipConfig


def built(encoder: DualEncoder, vocabulary: int = 8) -> Clip:
    """Return the method that a format describes, with its weights, all of which fit."""
    config = ClipConfig(
        image=encoder.image,
        text=encoder.text,
        image_head=encoder.image_head,
        text_head=encoder.text_head,
        embedding=encoder.embedding,
        objective=encoder.objective,
    )
    method: Clip = config.build(vocabulary=vocabulary)
    method.load_state_dict(dict(encoder.weights))
    return method.eval()


@torch.no_grad()
def differences(method: Clip, expected: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the relative distance from expected embeddings, the largest of a sample by side."""
    ours = {
        "image_embeddings": method.image(expected["images"]),
        "text_embeddings": method.text(expected["tokens"], expected["mask"]),
    }
    return {
        side: float((torch.nn.functional.normalize(one, dim=1) - expected[side]).norm(dim=1).max())
        for side, one in ours.items()
    }
