"""From a recipe's `method` to the module that trains, the tokens and pixels that it reads."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from xmodal.activity import activity
from xmodal.assembly.recipe import Recipe
from xmodal.data.decode import BadSample
from xmodal.data.manifest import Manifest
from xmodal.data.reader import SampleReader
from xmodal.data.tokens import (
    CaptionTokenizer,
    read_tokenizer,
    train_tokenizer,
    train_word_tokenizer,
)
from xmodal.errors import UserError
from xmodal.methods.clip import Clip
from xmodal.methods.config import (
    ClipConfig,
    DimConfig,
    MethodConfig,
    MiteConfig,
    PtfSimcmConfig,
    PvseConfig,
    SimsiamConfig,
    TirgConfig,
    UncsmConfig,
    VseppConfig,
)
from xmodal.methods.dim import Dim
from xmodal.methods.method import Method
from xmodal.methods.mite import Mite
from xmodal.methods.ptf_simcm import PtfSimcm
from xmodal.methods.pvse import Pvse
from xmodal.methods.simsiam import Simsiam
from xmodal.methods.tirg import Tirg
from xmodal.methods.uncsm import Uncsm
from xmodal.methods.vsepp import Vsepp
from xmodal.models import texts
from xmodal.models.config import (
    FeaturesConfig,
    RecurrentConfig,
    TimmConfig,
    TransformersConfig,
)
from xmodal.precision import set_precision

# Samples whose captions a vocabulary is learned from: all, or this many where there are more.
TOKENIZER_SAMPLES = 200_000
TEXT_ENCODER = "text_encoder"  # folder of a run with its text encoder's config.json
RUN = 100  # samples next to each other that are read together


def build_method(
    recipe: Recipe, vocabulary: int, device: torch.device, *, of_run: Path | None = None
) -> Method:
    """Return a recipe's method over `vocabulary` token ids with its first weights: random, or read
    from file or hub.

    Random ones depend on the seed alone. All are random where a checkpoint of the run folder
    `of_run` will take their place: no hub is asked then. The method is still on the CPU; `device`
    decides the precision that it will compute in.
    """
    precision = recipe.training.precision
    bf16 = precision == "bf16" or (precision == "auto" and device.type == "cuda")
    # What stays in float32 under bf16 is scores of embeddings, which bf16 has rounded more, and
    # recurrent networks.
    set_precision(tf32=bf16 and device.type == "cuda")
    torch.manual_seed(recipe.training.seed)
    config = _with_random_weights(recipe.method, of_run) if of_run else recipe.method
    return method_of(config, vocabulary, bf16=bf16)


def first_method(recipe: Recipe, device: torch.device) -> Method:
    """Return a recipe's method before its vocabulary is learned, as large as it may become.

    Raises `UserError` for an encoder that cannot be had.
    """
    return build_method(recipe, getattr(recipe.method.text, "vocabulary", 0), device)


def with_vocabulary(
    method: Method, recipe: Recipe, tokenizer: CaptionTokenizer, device: torch.device
) -> Method:
    """Return what `first_method` built, or a new one where the vocabulary has become smaller."""
    if getattr(recipe.method.text, "vocabulary", None) in (None, tokenizer.vocabulary):
        return method
    return build_method(recipe, tokenizer.vocabulary, device)


def method_of(config: MethodConfig, vocabulary: int, *, bf16: bool = False) -> Method:
    """Return the method that a recipe names, over `vocabulary` token ids."""
    match config:
        case ClipConfig():
            return Clip(config, vocabulary, bf16=bf16)
        case VseppConfig():
            return Vsepp(config, vocabulary, bf16=bf16)
        case PvseConfig():
            return Pvse(config, vocabulary, bf16=bf16)
        case MiteConfig():
            return Mite(config, vocabulary, bf16=bf16)
        case UncsmConfig():
            return Uncsm(config, vocabulary, bf16=bf16)
        case SimsiamConfig():
            return Simsiam(config, bf16=bf16)
        case PtfSimcmConfig():
            return PtfSimcm(config, vocabulary, bf16=bf16)
        case TirgConfig():
            return Tirg(config, vocabulary, bf16=bf16)
        case DimConfig():
            return Dim(config, vocabulary, bf16=bf16)
    raise AssertionError(config)


def keep_architecture(config: MethodConfig, run: Path) -> None:
    """Keep in a run folder what its text encoder is built from, where that came from elsewhere."""
    if isinstance(config.text, TransformersConfig) and not (run / TEXT_ENCODER).is_dir():
        texts.keep_architecture(config.text, run / TEXT_ENCODER)


def _with_random_weights(config: MethodConfig, run: Path) -> MethodConfig:
    """Return a method whose encoders ask no hub and no file for weights."""
    random: dict[str, Any] = {}
    if isinstance(config.image, TimmConfig):
        random["image"] = config.image.model_copy(update={"weights": "random"})
    if isinstance(config.text, TransformersConfig):
        kept = run / TEXT_ENCODER
        # Runs of before kept nothing; what a package has is at hand still.
        if kept.is_dir():
            random["text"] = config.text.model_copy(update={"weights": "random", "name": str(kept)})
        elif config.text.weights == "pretrained":
            random["text"] = config.text.model_copy(update={"weights": "random"})
    return config.model_copy(update=random)


def make_tokenizer(config: MethodConfig, manifests: Sequence[Manifest], path: Path) -> None:
    """Write the tokenizer that belongs to the text encoder to `path`, unless it is there.

    A pretrained encoder brings its own; that of a new one is trained on the shards' captions.
    Raises `UserError` where a text encoder is taken from a run that has lost its own, or no word
    is frequent enough to be learned.
    """
    if path.is_file():
        return
    text = config.text
    if isinstance(config, PtfSimcmConfig) and config.text_from:
        load_tokenizer(config, Path(config.text_from) / path.name).save(path)
        return
    if isinstance(text, TransformersConfig):
        texts.pretrained_tokenizer(text).save(path)
    elif text is None or isinstance(text, FeaturesConfig):
        train_tokenizer((), 300, 1).save(path)  # so that every run has one
    elif isinstance(text, RecurrentConfig):
        words = train_word_tokenizer(
            _captions(manifests), text.vocabulary, text.min_count, text.context
        )
        _check_words(words, text.min_count)
        words.save(path)
    else:
        train_tokenizer(_captions(manifests), text.vocabulary, text.context).save(path)


def _check_words(tokenizer: CaptionTokenizer, min_count: int) -> None:
    # The tokens of padding, start, end and the unknown word are always there.
    if tokenizer.vocabulary <= 4:
        raise UserError(
            f"no word of the captions occurs method.text.min_count={min_count} times, so all of "
            "them would read alike; lower it, or, for languages without spaces, use "
            "method.text={kind: transformer}, which reads bytes"
        )


def load_tokenizer(config: MethodConfig, path: Path) -> CaptionTokenizer:
    """Read the tokenizer that `make_tokenizer` wrote."""
    if not path.is_file():
        raise UserError(f"{path} is missing: the run's vocabulary is lost; train the run again")
    return read_tokenizer(path, config.text.context if config.text else 1)


def _captions(manifests: Sequence[Manifest]) -> Iterator[str]:
    """Yield the captions of samples from all over the shard sets, in runs that are read at once."""
    readers = [SampleReader(manifest) for manifest in manifests]
    total = sum(map(len, readers))
    stride = max(1, total // TOKENIZER_SAMPLES)
    with activity("learning the vocabulary: sample", total) as read:
        for reader in readers:
            for first in range(0, len(reader), stride * RUN):
                numbers = range(first, min(first + RUN, len(reader)))
                for sample in reader.load(numbers, ("json", "txt")):
                    try:
                        yield from sample.captions()
                    except BadSample:
                        continue  # counted and named when training meets it
                read.advance(min(stride * RUN, len(reader) - first))
