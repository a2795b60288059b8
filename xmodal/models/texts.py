"""Text encoders: pretrained ones of transformers, and those that are trained from scratch."""

from pathlib import Path

import torch
from torch import Tensor, nn

from xmodal.data.tokens import CaptionTokenizer
from xmodal.errors import UserError
from xmodal.models.config import (
    FeaturesConfig,
    RecurrentConfig,
    TextConfig,
    TransformerConfig,
    TransformersConfig,
)
from xmodal.models.encoder import Encoder, Local, masked_local, masked_mean
from xmodal.models.features import Features
from xmodal.models.packages import packaged_weights
from xmodal.models.recurrent import Recurrent


def text_encoder(config: TextConfig, vocabulary: int) -> Encoder:
    """Return the encoder that a recipe describes, with its first weights."""
    if isinstance(config, FeaturesConfig):
        return Features(config)
    if isinstance(config, TransformerConfig):
        return Transformer(config, vocabulary)
    if isinstance(config, RecurrentConfig):
        return Recurrent(config, vocabulary)
    return PretrainedText(config)


class Transformer(Encoder):
    """A pre-norm transformer over learned words and positions, mean-pooled."""

    def __init__(self, config: TransformerConfig, vocabulary: int) -> None:
        super().__init__()
        if config.width % config.heads:
            raise UserError(
                f"method.text.heads: {config.heads} heads do not divide width {config.width}"
            )
        self.features = self.local_features = config.width
        self.words = nn.Embedding(vocabulary, config.width)
        self.positions = nn.Parameter(torch.empty(config.context, config.width))
        for table in (self.words.weight, self.positions):
            nn.init.normal_(table, std=0.02)
        block = nn.TransformerEncoderLayer(
            config.width,
            config.heads,
            dim_feedforward=4 * config.width,
            dropout=config.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.blocks = nn.TransformerEncoder(
            block, config.layers, norm=nn.LayerNorm(config.width), enable_nested_tensor=False
        )

    def forward(self, tokens: Tensor, mask: Tensor, *, local: bool = False) -> Tensor | Local:
        """Return features (batch, width) of tokens (batch, length) and mask (batch, length)."""
        states = self.words(tokens) + self.positions[: tokens.shape[1]]
        states = self.blocks(states, src_key_padding_mask=~mask)
        return masked_local(states, mask) if local else masked_mean(states, mask)


class PretrainedText(Encoder):
    """An encoder of the transformers library, mean-pooled as sentence encoders are."""

    def __init__(self, config: TransformersConfig) -> None:
        super().__init__()
        from safetensors import SafetensorError
        from transformers import AutoConfig, AutoModel
        from transformers.utils import logging

        logging.disable_progress_bar()
        name = _source(config)
        try:
            if config.weights == "random":
                config_of = AutoConfig.from_pretrained(name)
                self.model = AutoModel.from_config(config_of, dtype=torch.float32)
            else:
                self.model = AutoModel.from_pretrained(name, dtype=torch.float32)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise _not_loaded(config, error) from None
        # Sentences are mean-pooled: BERT's own pooler would decay without ever being trained.
        self.model.pooler = None
        longest = getattr(self.model.config, "max_position_embeddings", config.context)
        if config.context > longest:
            raise UserError(
                f"method.text.context: {config.name} reads at most {longest} tokens, "
                f"not {config.context}"
            )
        self.features = self.local_features = int(self.model.config.hidden_size)

    def forward(self, tokens: Tensor, mask: Tensor, *, local: bool = False) -> Tensor | Local:
        """Return features (batch, features) of tokens (batch, length) and mask (batch, length)."""
        states = self.model(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
        return masked_local(states, mask) if local else masked_mean(states, mask)


def pretrained_tokenizer(config: TransformersConfig) -> CaptionTokenizer:
    """Return the tokenizer that belongs to a pretrained encoder."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(_source(config))
    except (OSError, ValueError) as error:
        raise _not_loaded(config, error) from None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(f"method.text.name: {config.name} has no fast tokenizer (tokenizer.json)")
    if tokenizer.pad_token is None:
        raise UserError(f"method.text.name: the tokenizer of {config.name} has no padding token")
    backend.enable_padding(pad_id=tokenizer.pad_token_id)
    return CaptionTokenizer(backend, config.context)


def _source(config: TransformersConfig) -> str:
    return str(packaged_weights(config.name)) if config.weights == "package" else config.name


def _not_loaded(config: TransformersConfig, error: Exception) -> UserError:
    local = (
        "" if Path(config.name).is_dir() else "; it is no local folder, and the hub gave nothing"
    )
    return UserError(
        f"method.text.name: {config.name} does not load{local}: {str(error).splitlines()[0]}"
    )
