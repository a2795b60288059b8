"""Construction of a recipe's method, and loading of one that was trained."""

from pathlib import Path
from typing import Any

import torch

from xmodal.assembly.recipe import Recipe
from xmodal.assembly.vocabulary import load_tokenizer, tokenizer_of
from xmodal.data.tokens import CaptionTokenizer
from xmodal.errors import UserError
from xmodal.methods.config import MethodConfig
from xmodal.methods.method import Method
from xmodal.models.config import EncoderConfig
from xmodal.models.layer_groups import encoders_of
from xmodal.precision import set_precision
from xmodal.runs.averages import Weights, load_chosen_weights
from xmodal.runs.checkpoints.integrity import check_whole_checkpoint
from xmodal.runs.run import Run

# Least share of a text encoder's ids that its tokenizer gives. A model's own gives nearly all, one
# whose vocabulary is lost a few special ones.
FEWEST_IDS = 1 / 32


def build_method(
    recipe: Recipe, vocabulary: int, device: torch.device, *, of_run: Path | None = None
) -> Method:
    """Return a recipe's method over `vocabulary` token ids with its first weights: random, or read
    from file or hub.

    Random weights depend on the seed alone. With a run folder `of_run`, whose checkpoint replaces
    them, all are random: no hub is asked. The method is still on the CPU; `device`
    decides the precision that it will compute in.
    """
    precision, on_gpu = recipe.training.precision, device.type == "cuda"
    bf16 = precision in ("bf16", "bf16_weights") or (precision == "auto" and on_gpu)
    # What stays in float32 under bf16 is scores of embeddings, which bf16 has rounded more, and
    # recurrent networks.
    set_precision(tf32=on_gpu and (bf16 or precision == "tf32"))
    torch.manual_seed(recipe.training.seed)
    config = without_weights(recipe.method, of_run) if of_run else recipe.method
    method: Method = config.build(vocabulary=vocabulary, bf16=bf16)
    return method


def load_method(
    recipe: Recipe,
    run: Run,
    checkpoint: Path,
    device: torch.device,
    weights: Weights | None = None,
) -> tuple[Method, CaptionTokenizer, Weights]:
    """Return the method of a checkpoint, on `device`, the tokenizer of its weights, and which they
    are: `weights`, or by default the averaged ones where the checkpoint has them.

    Raises `UserError` where the checkpoint is damaged, or its tokenizer is lost.
    """
    check_whole_checkpoint(checkpoint)
    tokenizer = load_tokenizer(recipe.method, tokenizer_of(run, checkpoint))
    method = build_method(recipe, tokenizer.vocabulary, device, of_run=run.path)
    loaded = load_chosen_weights(method, checkpoint, recipe.training.zero.stage, weights)
    return method.to(device), tokenizer, loaded


def first_method(recipe: Recipe, device: torch.device, *, of_run: Path | None = None) -> Method:
    """Return a recipe's method before its vocabulary is learned, as large as it may become.

    With a folder `of_run` its weights are random, as `build_method` says. Raises `UserError` for an
    encoder that cannot be had.
    """
    return build_method(recipe, _expected_vocabulary(recipe.method), device, of_run=of_run)


def with_vocabulary(
    method: Method, recipe: Recipe, tokenizer: CaptionTokenizer, device: torch.device
) -> Method:
    """Return what `first_method` built, or a new one where the vocabulary is of another size.

    Raises `UserError` where the text encoder has a vocabulary of its own, and the tokenizer a
    larger one.
    """
    text = recipe.method.text
    check_ids(method, tokenizer)
    if text is None or text.has_own_vocabulary:
        return method
    if tokenizer.vocabulary == _expected_vocabulary(recipe.method):
        return method
    return build_method(recipe, tokenizer.vocabulary, device)


def check_ids(method: Method, tokenizer: CaptionTokenizer) -> None:
    """Raise `UserError` where the tokenizer is not the one of a text encoder's ids.

    It gives ids that the encoder has not, far fewer than it has, or captions without the end that
    the encoder pools.
    """
    for encoder in encoders_of(method).values():
        if encoder.token_ids is None:
            continue
        ids, end = tokenizer.largest_id + 1, encoder.end_id
        if not FEWEST_IDS * encoder.token_ids <= ids <= encoder.token_ids:
            fault = f"has ids up to {ids - 1}, and method.text those below {encoder.token_ids}"
        elif end is not None and end not in tokenizer([""])[0]:
            fault = f"does not end captions with the id {end}, which method.text.end looks for"
        else:
            continue
        raise UserError(f"method.text.tokenizer {fault}; use the tokenizer of the model")


def _expected_vocabulary(config: MethodConfig) -> int:
    """Return the most token ids that a method's tokenizer may have; a few where it cannot tell."""
    return getattr(config.text.tokenizer, "vocabulary", 8) if config.text else 0


def keep_architecture(config: MethodConfig, run: Path) -> None:
    """Keep the architectures of encoders from elsewhere in the run folder."""
    for side, encoder in _encoders(config).items():
        encoder.keep_architecture(_kept(run, side))


def without_weights(config: MethodConfig, run: Path) -> MethodConfig:
    """Return a method whose encoders ask no hub and no file for weights."""
    random: dict[str, Any] = {
        side: encoder.without_weights(_kept(run, side)).with_new_adapters()
        for side, encoder in _encoders(config).items()
    }
    return config.model_copy(update=random)


def _encoders(config: MethodConfig) -> dict[str, EncoderConfig]:
    both = {side: getattr(config, side) for side in ("image", "text")}
    return {side: encoder for side, encoder in both.items() if encoder is not None}


def _kept(run: Path, side: str) -> Path:
    """Return the folder of a run with the architecture of an encoder."""
    return run / f"{side}_encoder"
