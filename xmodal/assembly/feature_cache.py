"""Cache of the features of locked encoders: shards that training reads instead of the samples.

A feature shard is a tar like any other, with the same samples in the same order as the shard that
it stands for: `KEY.image.npy` (features,), `KEY.text.npy` (captions, features) and `KEY.json`. Of a
method that reads features of parts they are `KEY.image.npy` (positions, features) and
`KEY.text.npy` (captions, context, features), with rows of zeros after a caption's end. A composed
query has `KEY.source.npy` and `KEY.target.npy`, and for a method that reads a lower layer of its
targets `KEY.target.lower.npy` (positions, channels). A side whose encoder is trained keeps its
images or captions. A sample that cannot be read is copied as it is: training then meets the same
fault in the same place.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from xmodal.assembly.data import evaluation_transform
from xmodal.assembly.feature_encoding import (
    Encoding,
    LockedSides,
    ShardEncoder,
    encoder_of,
    image_digest,
)
from xmodal.assembly.feature_shards import BATCH, Encode, feature_shards
from xmodal.assembly.recipe import Recipe
from xmodal.data.manifest import Manifest, Shard
from xmodal.data.reader import SampleReader
from xmodal.data.samples import IMAGES
from xmodal.data.tokens import CaptionTokenizer
from xmodal.errors import UserError
from xmodal.methods.method import Method
from xmodal.models.config import EncoderConfig
from xmodal.training.parts import locked, select_trained, unchanged


def locked_sides(method: Method, recipe: Recipe) -> LockedSides:
    """Find the encoders that stay as they are in every stage of a recipe.

    Raises `UserError` when there is none.
    """
    image, text = True, recipe.method.text is not None
    with unchanged(method):
        for stage in recipe.stages:
            select_trained(method, stage.train, stage.lock)
            image = image and locked(encoder_of(method, "image"))
            text = text and locked(encoder_of(method, "text"))
    if not (image or text):
        raise UserError(
            "data.feature_cache: every encoder is trained in some stage, so nothing can be cached; "
            "set it to null"
        )
    return LockedSides(image, text)


def cached_features(
    method: Method,
    manifest: Manifest,
    tokenizer: CaptionTokenizer,
    recipe: Recipe,
    *,
    captions: int = 1,
    device: torch.device,
    say: Callable[[str], None],
) -> Manifest:
    """Return the shard set of features of `manifest`; missing shards are computed.

    With `captions=0`, samples need none; where that leaves no side to encode, it is `manifest`
    itself. The folder's name is a digest of all that the features depend on.
    """
    sides = locked_sides(method, recipe)
    sides = LockedSides(sides.image, sides.text and captions > 0)
    if not (sides.image or sides.text):
        return manifest
    folder = Path(recipe.data.feature_cache or "") / _digest(
        method, manifest, tokenizer, recipe, sides
    )
    transform = evaluation_transform(recipe)

    def encoder(samples: SampleReader, numbers: range) -> Encode:
        method.to(device).eval()
        encoding = Encoding(method, transform, tokenizer, sides, device)
        return ShardEncoder(encoding, _uses(samples, numbers) if sides.image else Counter()).encode

    return feature_shards(
        folder, manifest, encoder, max_bad_share=recipe.data.max_bad_share, say=say
    )


def _uses(samples: SampleReader, numbers: range) -> Counter[bytes]:
    """Return how often a shard of queries has each image, by its digest; of others nothing."""
    uses: Counter[bytes] = Counter()
    for chunk in (numbers[i : i + BATCH] for i in range(0, len(numbers), BATCH)):
        files = {name for role in ("source", "target") for name in IMAGES[role]}
        for sample in samples.load(chunk, files):
            uses.update(image_digest(data) for data in sample.files.values() if data)
    return uses


def _digest(
    method: Method,
    manifest: Manifest,
    tokenizer: CaptionTokenizer,
    recipe: Recipe,
    sides: LockedSides,
) -> str:
    """Return the digest of everything that the features depend on."""
    config = recipe.method
    settings = {
        "shards": [_identity(manifest, shard) for shard in manifest.shards],
        "image": _settings(config.image) if sides.image else None,
        "text": _settings(config.text) if config.text and sides.text else None,
        "tokenizer": tokenizer.tokenizer.to_str() if sides.text else None,
        "size": config.image.size,
        "bf16": method.bf16,
        "local": method.local,
        "level": getattr(config, "level", None) if method.lower else None,
    }
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=8)
    # The weights themselves: a file of one name may hold others tomorrow.
    for is_locked, side in ((sides.image, "image"), (sides.text, "text")):
        for tensor in encoder_of(method, side).state_dict().values() if is_locked else ():
            digest.update(tensor.cpu().flatten().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def _identity(manifest: Manifest, shard: Shard) -> str:
    """Return a string that changes with the samples of a shard, not with their weights."""
    identity = manifest.storage.identity(shard.url)
    return f"{identity} {shard.kept.numbers_digest}" if shard.kept else identity


def _settings(config: EncoderConfig) -> dict[str, Any]:
    """Return an encoder's settings, without keys that it leaves null and that once were not."""
    settings, later = config.model_dump(mode="json"), ("preprocessing", "lora")
    return {key: one for key, one in settings.items() if key not in later or one}
