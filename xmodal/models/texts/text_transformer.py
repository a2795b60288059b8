"""Text transformer as in CLIP and SigLIP, described by its sizes."""

from functools import partial
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from xmodal.data.tokenizers.byte_pair import BytePairConfig
from xmodal.data.tokenizers.config import TokenizerConfig
from xmodal.devices import copy_to
from xmodal.errors import UserError
from xmodal.models.activations import ACTIVATIONS
from xmodal.models.config import Activation, TextEncoderConfig, TextPooling
from xmodal.models.encoder import Encoder, Local, zero_padding
from xmodal.models.texts.pooling import pool_text

GROUPS = 8  # of captions of like length


class ClipTextConfig(TextEncoderConfig):
    """A text transformer by its sizes: that of CLIP by default, of SigLIP with other settings."""

    kind: Literal["clip_text"] = "clip_text"
    tokenizer: TokenizerConfig = Field(BytePairConfig(), description="tokenizer of captions")
    context: PositiveInt = Field(77, description="longest caption, tokens; the rest is cut")
    width: PositiveInt = Field(512, description="width of the residual stream")
    layers: PositiveInt = Field(12, description="number of blocks")
    heads: PositiveInt = Field(8, description="attention heads; divide the width")
    mlp: PositiveInt = Field(2048, description="width of the hidden layer of a block")
    activation: Activation = Field(
        "gelu", description="`gelu` (exact), `quick_gelu` (OpenAI's CLIP) or `gelu_tanh` (SigLIP)"
    )
    causal: bool = Field(True, description="tokens attend to those before them alone (CLIP)")
    pooling: TextPooling = Field(
        "last", description="`end_of_text` (CLIP), `last` token (SigLIP), `class` (first) or `mean`"
    )
    end: int | None = Field(
        None, description="id that `end_of_text` looks for; null: the largest of a caption"
    )
    padding: Literal["masked", "attended"] = Field(
        "masked", description="whether tokens attend to padding, as SigLIP's do"
    )
    trim: bool = Field(
        False,
        description="encode captions of like length together, so that less padding is computed; "
        "features differ in their last digits",
    )
    eps: PositiveFloat = Field(1e-5, description="epsilon of layer normalisation")
    layer_scale: PositiveFloat | None = Field(
        None, description="initial scale of each block's residuals; null: they are not scaled"
    )
    token_ids: PositiveInt | None = Field(
        None, description="ids that the embedding has; null: as many as the tokenizer"
    )
    builds: ClassVar[str] = "TextTransformer"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.trim and self.padding == "attended":
            raise ValueError("trim removes padding, which padding: attended needs; choose one")
        return self

    @property
    def has_own_vocabulary(self) -> bool:
        """True if the network has as many ids as it has, whatever the tokenizer has."""
        return self.token_ids is not None

    @property
    def pools_by_mean(self) -> bool:
        """True if features of a text are the mean of those of its words."""
        return self.pooling == "mean"


class TextTransformer(Encoder):
    """Pre-norm transformer over tokens and learned positions (Radford et al. 2021, section 2.4).

    Padding follows the caption. Where it is attended to, captions come padded to the context.
    """

    tower_of_transformers = "text_model"

    def __init__(
        self,
        vocabulary: int,
        *,
        context: int = 77,
        width: int = 512,
        layers: int = 12,
        heads: int = 8,
        mlp: int = 2048,
        activation: Activation = "gelu",
        causal: bool = True,
        pooling: TextPooling = "last",
        end: int | None = None,
        padding: Literal["masked", "attended"] = "masked",
        trim: bool = False,
        eps: float = 1e-5,
        layer_scale: float | None = None,
        token_ids: int | None = None,
    ) -> None:
        super().__init__()
        if width % heads:
            raise UserError(
                f"method.text.heads: {heads} heads do not divide width {width}; change one of the "
                "two"
            )
        self.features = self.local_features = width
        self.token_ids = token_ids
        self.causal, self.pooling = causal, pooling
        self.end_id = end if pooling == "end_of_text" else None
        self.attends_padding = padding == "attended"
        self.skips_padding = trim
        self.words = nn.Embedding(token_ids or vocabulary, width)
        self.positions = nn.Parameter(torch.empty(context, width))
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.01)
        norm: Any = partial(nn.LayerNorm, eps=eps)
        self.blocks = nn.ModuleList(
            Block(
                width,
                heads,
                mlp_ratio=(mlp + 0.5) / width,  # the library rounds down what it multiplies
                qkv_bias=True,
                init_values=layer_scale,
                act_layer=ACTIVATIONS[activation],  # type: ignore[arg-type]
                norm_layer=norm,
            )
            for _ in range(layers)
        )
        self.norm = norm(width)

    def forward(
        self, tokens: Tensor, mask: Tensor, lengths: Tensor | None = None, *, local: bool = False
    ) -> Tensor | Local:
        """Return features (batch, width) of tokens (batch, length) and mask (batch, length).

        Given `lengths` (batch,) int64 of the texts, on the host, nothing waits for the mask.
        """
        if local or not self.skips_padding or mask.is_meta:
            return self._encode(tokens, mask, local=local)
        lengths, order = (mask.sum(1).cpu() if lengths is None else lengths).sort()
        rows = copy_to(tokens.device, order)
        parts = [
            self._encode(tokens[some, : of[-1]], mask[some, : of[-1]])
            for some, of in zip(rows.chunk(GROUPS), lengths.chunk(GROUPS), strict=True)
        ]
        return torch.cat(parts).index_select(0, rows.argsort())

    def _encode(self, tokens: Tensor, mask: Tensor, *, local: bool = False) -> Any:
        states = self.words(tokens) + self.positions[: tokens.shape[1]]
        # A causal one sees no padding before its caption has ended.
        bare = self.causal or self.attends_padding
        attended = None if bare else mask[:, None, None]
        for block in self.blocks:
            states = block(states, attn_mask=attended, is_causal=self.causal)
        states = self.norm(states)
        seen = torch.ones_like(mask) if self.attends_padding else mask
        pooled = pool_text(states, tokens, seen, self.pooling, self.end_id)
        return Local(zero_padding(states, mask), mask, pooled) if local else pooled
