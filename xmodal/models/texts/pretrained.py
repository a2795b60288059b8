"""Text encoders of the transformers library, with the tokenizers that belong to them."""

import pickle
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from xmodal.data.cleaning import CLEANING, Cleaning
from xmodal.data.tokenizers.config import PADDED, Padded, TokenizerConfig
from xmodal.data.tokens import CaptionTokenizer, is_panic
from xmodal.errors import UserError
from xmodal.extras import require
from xmodal.hub import asking_hub, hub_failure
from xmodal.models.config import TextEncoderConfig
from xmodal.models.encoder import Encoder, Local, masked_local
from xmodal.models.packages import packaged_weights, packages_for
from xmodal.models.text_limits import check_files, check_numbers, check_size
from xmodal.models.texts.attention_masks import use_any_mask
from xmodal.models.texts.pooling import pool_text
from xmodal.tensor_files import refusal

Weights = Literal["pretrained", "package", "random"]
# Files that hold a tokenizer's vocabulary, any one set of them. Without any, the library makes a
# tokenizer of a few special tokens, to which all texts are alike.
_VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("vocab.txt",), ("*.model",))


class PretrainedTokenizerConfig(TokenizerConfig):
    """The tokenizer of a model of the transformers library, by hub name or local folder."""

    kind: Literal["pretrained"] = "pretrained"
    name: str = Field(description="hub name or folder of the model")
    weights: Weights = Field("pretrained", description="weights of the model, as of the encoder")
    clean: Cleaning = Field("none", description=f"cleaning of captions: {CLEANING}")
    pads: Padded = Field("longest", description=PADDED)
    builds: ClassVar[str] = "pretrained_tokenizer"

    @property
    def cleaning(self) -> Cleaning:
        """The cleaning of captions before its tokenizer.json reads them."""
        return self.clean


class TransformersConfig(TextEncoderConfig):
    """A text encoder of the transformers library, by hub name or local folder; mean-pooled."""

    kind: Literal["transformers"] = "transformers"
    name: str = Field(
        description="hub name or folder, such as sentence-transformers/all-MiniLM-L6-v2"
    )
    weights: Weights = Field(
        "pretrained", description="`pretrained`, `package` (an installed package) or `random`"
    )
    context: PositiveInt = Field(64, description="longest caption, tokens; the rest is cut")
    pooling: Literal["mean", "class", "last"] = Field(
        "mean", description="features of a text: `mean` of its tokens, `class` (first) or `last`"
    )
    clean: Cleaning = Field("none", description=f"cleaning of captions: {CLEANING}")
    settings: dict[str, Any] = Field(
        {}, description="the model's config.json, in place of the one that `name` has"
    )
    recipe_only: ClassVar[frozenset[str]] = frozenset({"tokenizer", "clean"})
    builds: ClassVar[str] = "PretrainedText"

    @property
    def pools_by_mean(self) -> bool:
        """True if features of a text are the mean of those of its tokens."""
        return self.pooling == "mean"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.settings and self.weights != "random":
            raise ValueError(
                "settings: they describe a model with random weights; give weights: random"
            )
        return self

    @property
    def has_own_vocabulary(self) -> bool:
        """True: the model has ids of its own."""
        return True

    @property
    def tokenizer(self) -> TokenizerConfig:
        """The tokenizer that belongs to the model."""
        return PretrainedTokenizerConfig(name=self.name, weights=self.weights, clean=self.clean)

    def keep_architecture(self, folder: Path) -> None:
        """Write the encoder's config.json, from which it is built without its weights."""
        if not folder.is_dir():
            kept: Any = self.built_class()
            kept.keep_architecture(folder, self.name, self.weights, self.settings)

    def without_weights(self, folder: Path) -> Self:
        """Return the encoder with random weights, as the folder describes it."""
        # Runs of before kept nothing; what a package has is at hand still.
        if folder.is_dir():
            kept = {"weights": "random", "name": str(folder), "settings": {}}
            return self.model_copy(update=kept)
        random = self.weights == "pretrained"
        return self.model_copy(update={"weights": "random"}) if random else self


class PretrainedText(Encoder):
    """An encoder of the transformers library, mean-pooled by default as sentence encoders are."""

    def __init__(
        self,
        name: str,
        *,
        weights: Weights = "pretrained",
        context: int = 64,
        pooling: Literal["mean", "class", "last"] = "mean",
        settings: Mapping[str, Any] = MappingProxyType({}),
        vocabulary: int = 0,  # noqa: ARG002 - the model has its own
    ) -> None:
        super().__init__()
        self.pooling = pooling
        require("pretrained")
        from transformers import AutoModel
        from transformers.utils import logging

        logging.disable_progress_bar()
        described = _model_settings(name, weights, settings)
        with _naming(name):
            check_size(described, _source(name, weights) if weights != "random" else "")
            if weights == "random":
                self.model = AutoModel.from_config(
                    described, dtype=torch.float32, trust_remote_code=False
                )
            else:
                self.model, found = AutoModel.from_pretrained(
                    _source(name, weights),
                    dtype=torch.float32,
                    output_loading_info=True,
                    trust_remote_code=False,
                    weights_only=True,
                )
                _check_found(found)
        # Sentences are mean-pooled: BERT's own pooler would decay without ever being trained.
        self.model.pooler = None
        use_any_mask(self.model)
        longest = _longest(self.model, context)
        if context > longest:
            raise UserError(
                f"method.text.context: {name} reads at most {longest} tokens, "
                f"not {context}; lower it"
            )
        self.features = self.local_features = int(self.model.config.hidden_size)
        self.token_ids = self.model.get_input_embeddings().num_embeddings

    @property
    def wrapped(self) -> nn.Module:
        """The model of transformers."""
        model: nn.Module = self.model
        return model

    def forward(self, tokens: Tensor, mask: Tensor, *, local: bool = False) -> Tensor | Local:
        """Return features (batch, features) of tokens (batch, length) and mask (batch, length)."""
        states = self.model(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
        pooled = pool_text(states, tokens, mask, self.pooling)
        return masked_local(states, mask)._replace(pooled=pooled) if local else pooled

    @staticmethod
    def keep_architecture(
        folder: Path, name: str, weights: Weights, settings: Mapping[str, Any]
    ) -> None:
        """Write a model's config.json into a folder."""
        _model_settings(name, weights, settings).save_pretrained(folder)


def pretrained_tokenizer(
    _captions: Iterable[str],
    context: int,
    *,
    name: str,
    weights: Weights = "pretrained",
    clean: Cleaning = "none",
    pads: Padded = "longest",
) -> CaptionTokenizer:
    """Return the tokenizer that belongs to a pretrained encoder; it reads no captions."""
    require("pretrained")
    from transformers import AutoTokenizer

    with _naming(name):
        source = _source(name, weights)
        _check_vocabulary(Path(source))
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            f"method.text.name: {name} has no fast tokenizer (tokenizer.json); name another model"
        )
    if tokenizer.pad_token is None:
        raise UserError(
            f"method.text.name: the tokenizer of {name} has no padding token; name another model"
        )
    length = context if pads == "context" else None
    backend.enable_padding(
        direction=tokenizer.padding_side, pad_id=tokenizer.pad_token_id, length=length
    )
    return CaptionTokenizer(backend, context, clean)


def _source(name: str, weights: Weights) -> str:
    """Return the folder or the hub's name of a model whose files are such files."""
    from transformers import PretrainedConfig

    source = str(packaged_weights(name)) if weights == "package" else name
    check_files(Path(source))
    check_numbers(PretrainedConfig.get_config_dict(source)[0])
    return source


def _check_vocabulary(folder: Path) -> None:
    """Raise `UserError` where a local folder has no vocabulary."""
    if folder.is_dir() and not any(
        all(any(folder.glob(name)) for name in names) for names in _VOCABULARIES
    ):
        known = ", or ".join(" and ".join(names) for names in _VOCABULARIES)
        raise UserError(
            f"{folder} has no files of a tokenizer ({known}); copy them from the model that this "
            "was trained from"
        )


def _model_settings(name: str, weights: Weights, given: Mapping[str, Any]) -> Any:
    """Return transformers' settings of a model; `UserError` where it is no encoder of text."""
    require("pretrained")
    from transformers import AutoConfig

    with _naming(name):
        if given:
            check_numbers(given)
            settings = AutoConfig.for_model(**given)
        else:
            settings = AutoConfig.from_pretrained(_source(name, weights), trust_remote_code=False)
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


def _longest(model: Any, context: int) -> int:
    """Return how many tokens a model reads, `context` where nothing limits them.

    Positions of models such as XLM-R are counted from behind that of padding.
    """
    longest: int = getattr(model.config, "max_position_embeddings", context)
    positions = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(positions, "padding_idx", None)
    return longest if padding is None else longest - padding - 1


def _check_found(found: Mapping[str, Any]) -> None:
    """Raise `ValueError` where weights are missing, which transformers would draw at random."""
    missing = [name for name in found["missing_keys"] if "pooler" not in name]
    missing += [str(one[0]) for one in found["mismatched_keys"]]
    if missing:
        raise ValueError(f"its weights lack {len(missing)} tensors: {missing[0]} …")


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Turn what transformers raises on a model into a `UserError` that names it."""
    try:
        with asking_hub():
            yield
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        reason = refusal(str(error))
    except BaseException as error:  # the files of a folder lead the library to whatever error
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if isinstance(error, OSError) and not Path(name).is_dir():
            reason = f"{hub_failure(error)}; give a local folder, or {packages_for('text')}"
        if "trust_remote_code" in str(error) or "custom code" in str(error):
            reason = (
                "it needs code of its own (auto_map in its config.json), which is never run: name "
                "a model that transformers knows"
            )
    else:
        return
    hub = "" if Path(name).is_dir() else "; it is no local folder, and the hub gave nothing"
    raise UserError(f"method.text.name: {name} does not load{hub}: {reason}") from None
