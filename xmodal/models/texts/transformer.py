"""A small transformer that is trained from scratch."""

from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from xmodal.data.tokenizers.byte_pair import BytePairConfig
from xmodal.data.tokenizers.config import TokenizerConfig
from xmodal.errors import UserError
from xmodal.models.config import TextEncoderConfig
from xmodal.models.encoder import Encoder, Local, masked_local, masked_mean


class TransformerConfig(TextEncoderConfig):
    """A small pre-norm transformer trained from scratch, its vocabulary learned from the shards."""

    kind: Literal["transformer"] = "transformer"
    tokenizer: TokenizerConfig = Field(BytePairConfig(), description="tokenizer of captions")
    context: PositiveInt = Field(32, description="longest caption, tokens; the rest is cut")
    width: PositiveInt = Field(192, description="width of the residual stream")
    layers: PositiveInt = Field(4, description="number of blocks")
    heads: PositiveInt = Field(4, description="attention heads; divide the width")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of attention and residuals")

    moved: ClassVar[frozenset[str]] = frozenset({"vocabulary"})
    builds: ClassVar[str] = "Transformer"


class Transformer(Encoder):
    """A pre-norm transformer over learned words and positions, mean-pooled."""

    def __init__(
        self,
        vocabulary: int,
        *,
        context: int = 32,
        width: int = 192,
        layers: int = 4,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if width % heads:
            raise UserError(
                f"method.text.heads: {heads} heads do not divide width {width}; "
                "change one of the two"
            )
        self.features = self.local_features = width
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.empty(context, width))
        for table in (self.words.weight, self.positions):
            nn.init.normal_(table, std=0.02)
        block = nn.TransformerEncoderLayer(
            width,
            heads,
            dim_feedforward=4 * width,
            dropout=dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.blocks = nn.TransformerEncoder(
            block, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False
        )

    def forward(self, tokens: Tensor, mask: Tensor, *, local: bool = False) -> Tensor | Local:
        """Return features (batch, width) of tokens (batch, length) and mask (batch, length)."""
        states = self.words(tokens) + self.positions[: tokens.shape[1]]
        states = self.blocks(states, src_key_padding_mask=~mask)
        return masked_local(states, mask) if local else masked_mean(states, mask)
