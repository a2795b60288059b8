"""Activations of transformers that formats of others tell apart.

Embeddings differ by 1e-2 (quick) and 3e-4 (tanh) from those by the exact one.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from timm.layers.activations import QuickGELU
from torch import nn

from xmodal.models.config import Activation

ACTIVATIONS: dict[Activation, Callable[..., Any]] = {
    "gelu": nn.GELU,
    "quick_gelu": QuickGELU,  # x σ(1.702 x)
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
}
