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
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset

from xmodal.activity import activity
from xmodal.assembly.data import evaluation_transform
from xmodal.assembly.feature_encoding import (
    Encoding,
    LockedSides,
    ShardEncoder,
    encoder_of,
    image_digest,
)
from xmodal.assembly.recipe import Recipe
from xmodal.data.batch import Fault
from xmodal.data.manifest import MANIFEST_NAME, Manifest, Shard, read_manifest, write_manifest
from xmodal.data.reader import SampleReader
from xmodal.data.sample_spec import parts_dropped
from xmodal.data.samples import IMAGES
from xmodal.data.shard_index import index_path, write_index
from xmodal.data.tokens import CaptionTokenizer
from xmodal.distributed.collectives import barrier, rank, world_size
from xmodal.errors import UserError
from xmodal.methods.method import Method
from xmodal.models.config import EncoderConfig
from xmodal.training.parts import locked, select_trained, unchanged

BATCH = 16  # samples encoded at a time: few enough to stay in a CPU's cache


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
    itself. Each rank writes whole shards, beside their place and renamed; those of an interrupted
    run are kept. The folder's name is a digest of all that the features depend on.
    """
    sides = locked_sides(method, recipe)
    sides = LockedSides(sides.image, sides.text and captions > 0)
    if not (sides.image or sides.text):
        return manifest
    folder = Path(recipe.data.feature_cache or "") / _digest(
        method, manifest, tokenizer, recipe, sides
    )
    complete = (folder / MANIFEST_NAME).is_file()
    if not complete:
        folder.mkdir(parents=True, exist_ok=True)
        say(f"computing features of {manifest.url} once, into {folder}")
        method.to(device).eval()
        transform = evaluation_transform(recipe)
        encoding = Encoding(method, transform, tokenizer, sides, device)
        samples = SampleReader(manifest)
        starts = np.cumsum([0, *(shard.num_samples for shard in manifest.shards)]).tolist()
        for number in range(rank(), len(manifest.shards), world_size()):
            numbers = range(starts[number], starts[number] + manifest.shards[number].num_samples)
            if not Path(index_path(folder / _name(number))).is_file():
                faults = _write_shard(folder / _name(number), encoding, samples, numbers)
                _report(faults, len(numbers), recipe.data.max_bad_share, say)
                say(f"features of {numbers.stop:,} of {manifest.num_samples:,} samples")
    barrier()
    if not complete and rank() == 0:
        sizes = {_name(i): shard.num_samples for i, shard in enumerate(manifest.shards)}
        write_manifest(folder, sizes)
    barrier()
    return read_manifest(folder)


def _write_shard(
    path: Path, encoding: Encoding, samples: SampleReader, numbers: range
) -> list[Fault]:
    """Write the features of a shard's samples and return those that could not be read."""
    # A name of its own, because another job may be filling the same cache.
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    shard = ShardEncoder(encoding, _uses(samples, numbers) if encoding.sides.image else Counter())
    faults: list[Fault] = []
    tar = webdataset.TarWriter(str(partial), encoder=False)
    with tar, activity(f"computing features for {path.name}: sample", len(numbers)) as done:
        for chunk in (numbers[i : i + BATCH] for i in range(0, len(numbers), BATCH)):
            read = samples.load(chunk)
            for number, sample, made in zip(chunk, read, shard.encode(read), strict=True):
                # The number sets apart samples that follow each other with one key.
                key = f"{number:09d}/{sample.key}"
                if isinstance(made, Fault):
                    faults.append(made)
                    copied = {extension: data or b"" for extension, data in sample.files.items()}
                    made = copied or {"txt": b""}  # of what is too large to be read
                else:
                    faults += parts_dropped(sample)
                tar.write({"__key__": key, **made})
            done.advance(len(chunk))
    partial.rename(path)
    write_index(path)
    return faults


def _uses(samples: SampleReader, numbers: range) -> Counter[bytes]:
    """Return how often a shard of queries has each image, by its digest; of others nothing."""
    uses: Counter[bytes] = Counter()
    for chunk in (numbers[i : i + BATCH] for i in range(0, len(numbers), BATCH)):
        files = {name for role in ("source", "target") for name in IMAGES[role]}
        for sample in samples.load(chunk, files):
            uses.update(image_digest(data) for data in sample.files.values() if data)
    return uses


def _report(faults: list[Fault], total: int, max_share: float, say: Callable[[str], None]) -> None:
    for fault in faults[:5]:
        say(f"{'part of a sample, dropped' if fault.partial else 'bad sample'}: {fault}")
    faults = [fault for fault in faults if not fault.partial]
    if len(faults) > max_share * max(total, 1000):
        raise UserError(
            f"{len(faults)} of {total} samples cannot be read, the first {faults[0]}; run "
            "`python -m shards check` on the shards or raise data.max_bad_share"
        )


def _name(number: int) -> str:
    return f"features-{number:06d}.tar"


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
