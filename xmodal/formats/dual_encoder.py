"""A dual encoder as every format describes it: in the words of a recipe, with weights by name."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from xmodal.data.tokenizers.config import TokenizerConfig
from xmodal.models.config import HeadConfig, ImageEncoderConfig, TextEncoderConfig
from xmodal.objectives.config import ObjectiveConfig
from xmodal.objectives.info_nce import InfoNCEConfig
from xmodal.objectives.sigmoid import SigmoidConfig


@dataclass(frozen=True)
class DualEncoder:
    """Two towers into one space: fields are those of the method `clip`.

    `weights` has the names of that method's state dict (`image.backbone.…`, `image.head.…`,
    `text.…`, `loss.log_scale`, `loss.bias`), and reads each tensor when it is asked for.
    """

    image: ImageEncoderConfig
    text: TextEncoderConfig
    image_head: HeadConfig | None
    text_head: HeadConfig | None
    embedding: int
    objective: ObjectiveConfig
    weights: Mapping[str, Tensor]

    @property
    def tokenizer(self) -> TokenizerConfig:
        """The tokenizer, which is described with the text encoder."""
        return self.text.tokenizer


def objective_of(weights: Mapping[str, Tensor]) -> ObjectiveConfig:
    """Return the objective that goes with a model's scale and bias: SigLIP's where it has both."""
    scale = math.exp(float(weights["loss.log_scale"]))
    if "loss.bias" in weights:
        return SigmoidConfig(scale=scale, bias=float(weights["loss.bias"]))
    return InfoNCEConfig(scale=scale, max_scale=max(100.0, scale))
