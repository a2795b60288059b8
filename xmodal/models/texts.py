"""Text encoders: pretrained ones of transformers, and those that are trained from scratch."""

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.data.tokens import CaptionTokenizer, is_panic
from xmodal.errors import UserError
from xmodal.extras import require
from xmodal.models.config import (
    FeaturesConfig,
    RecurrentConfig,
    TextEncoderConfig,
    TransformerConfig,
    TransformersConfig,
)
from xmodal.models.encoder import Encoder, Local, masked_local, masked_mean
from xmodal.models.features import Features
from xmodal.models.packages import packaged_weights
from xmodal.models.recurrent import Recurrent
from xmodal.models.text_limits import check_files, check_numbers, check_size
from xmodal.tensor_files import refusal


def text_encoder(config: TextEncoderConfig, vocabulary: int) -> Encoder:
    """Return the encoder that a recipe describes, with its first weights."""
    if isinstance(config, FeaturesConfig):
        return Features(config)
    if isinstance(config, TransformerConfig):
        return Transformer(config, vocabulary)
    if isinstance(config, RecurrentConfig):
        return Recurrent(config, vocabulary)
    assert isinstance(config, TransformersConfig)
    return PretrainedText(config)


class Transformer(Encoder):
    """A pre-norm transformer over learned words and positions, mean-pooled."""

    def __init__(self, config: TransformerConfig, vocabulary: int) -> None:
        super().__init__()
        if config.width % config.heads:
            raise UserError(
                f"method.text.heads: {config.heads} heads do not divide width {config.width}; "
                "change one of the two"
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
        require("pretrained")
        from transformers import AutoModel
        from transformers.utils import logging

        logging.disable_progress_bar()
        settings = _model_settings(config)
        with _naming(config):
            check_size(settings, _source(config) if config.weights != "random" else "")
            if config.weights == "random":
                self.model = AutoModel.from_config(
                    settings, dtype=torch.float32, trust_remote_code=False
                )
            else:
                self.model, found = AutoModel.from_pretrained(
                    _source(config),
                    dtype=torch.float32,
                    output_loading_info=True,
                    trust_remote_code=False,
                    weights_only=True,
                )
                _check_found(found)
        # Sentences are mean-pooled: BERT's own pooler would decay without ever being trained.
        self.model.pooler = None
        longest = getattr(self.model.config, "max_position_embeddings", config.context)
        if config.context > longest:
            raise UserError(
                f"method.text.context: {config.name} reads at most {longest} tokens, "
                f"not {config.context}; lower it"
            )
        self.features = self.local_features = int(self.model.config.hidden_size)

    def forward(self, tokens: Tensor, mask: Tensor, *, local: bool = False) -> Tensor | Local:
        """Return features (batch, features) of tokens (batch, length) and mask (batch, length)."""
        states = self.model(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
        return masked_local(states, mask) if local else masked_mean(states, mask)


def keep_architecture(config: TransformersConfig, folder: Path) -> None:
    """Write an encoder's config.json into a folder, from which it is built without its weights."""
    _model_settings(config).save_pretrained(folder)


def pretrained_tokenizer(config: TransformersConfig) -> CaptionTokenizer:
    """Return the tokenizer that belongs to a pretrained encoder."""
    require("pretrained")
    from transformers import AutoTokenizer

    with _naming(config):
        tokenizer = AutoTokenizer.from_pretrained(_source(config), trust_remote_code=False)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            f"method.text.name: {config.name} has no fast tokenizer (tokenizer.json); name another "
            "model"
        )
    if tokenizer.pad_token is None:
        raise UserError(
            f"method.text.name: the tokenizer of {config.name} has no padding token; name another "
            "model"
        )
    backend.enable_padding(pad_id=tokenizer.pad_token_id)
    return CaptionTokenizer(backend, config.context)


def _source(config: TransformersConfig) -> str:
    """Return the folder or the hub's name of a model whose files are such files."""
    from transformers import PretrainedConfig

    source = str(packaged_weights(config.name)) if config.weights == "package" else config.name
    check_files(Path(source))
    check_numbers(PretrainedConfig.get_config_dict(source)[0])
    return source


def _model_settings(config: TransformersConfig) -> Any:
    """Return transformers' settings of a model; `UserError` where it is no encoder of text."""
    require("pretrained")
    from transformers import AutoConfig

    with _naming(config):
        settings = AutoConfig.from_pretrained(_source(config), trust_remote_code=False)
        kind = settings.model_type
        if hasattr(settings, "vision_config") or hasattr(settings, "text_config"):
            raise ValueError(
                f"it is a {kind} model, of more than text: name a sentence encoder, or save its "
                "text model alone (model.text_model.save_pretrained(FOLDER)) and name that"
            )
        if settings.is_encoder_decoder:
            raise ValueError(f"it is a {kind} model, which decodes: name an encoder of text")
        if "/" in str(getattr(settings, "_attn_implementation", "")):
            raise ValueError("it asks for code of a hub for its attention, which is never run")
    return settings


def _check_found(found: Mapping[str, Any]) -> None:
    """Raise `ValueError` where weights are missing, which transformers would draw at random."""
    missing = [name for name in found["missing_keys"] if "pooler" not in name]
    missing += [str(one[0]) for one in found["mismatched_keys"]]
    if missing:
        raise ValueError(f"its weights lack {len(missing)} tensors: {missing[0]} …")


@contextmanager
def _naming(config: TransformersConfig) -> Iterator[None]:
    """Turn what transformers raises on a model into a `UserError` that names it."""
    try:
        yield
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        reason = refusal(str(error))
    except BaseException as error:  # the files of a folder lead the library to whatever error
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if "trust_remote_code" in str(error) or "custom code" in str(error):
            reason = (
                "it needs code of its own (auto_map in its config.json), which is never run: name "
                "a model that transformers knows"
            )
    else:
        return
    hub = "" if Path(config.name).is_dir() else "; it is no local folder, and the hub gave nothing"
    raise UserError(f"method.text.name: {config.name} does not load{hub}: {reason}") from None
