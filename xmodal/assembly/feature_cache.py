"""Features of locked encoders, computed once and written as shards that training reads instead.

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
import io
import json
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import webdataset
from torch import Tensor

from xmodal.activity import activity
from xmodal.assembly.recipe import Recipe
from xmodal.data.batch import Fault
from xmodal.data.decode import BadSample, open_image
from xmodal.data.manifest import MANIFEST_NAME, Manifest, read_manifest, write_manifest
from xmodal.data.reader import SampleReader
from xmodal.data.sample_spec import parts_dropped
from xmodal.data.samples import IMAGES, RawSample
from xmodal.data.shard_index import index_path, write_index
from xmodal.data.tokens import CaptionTokenizer
from xmodal.data.transforms import ImageTransform
from xmodal.distributed.collectives import barrier, rank, world_size
from xmodal.errors import UserError
from xmodal.methods.method import Method, in_precision
from xmodal.models.encoder import Encoder, Local, masked_mean
from xmodal.training.parts import locked, select_trained, unchanged

NO_MEAN = (
    "data.feature_cache: the encoder of method.{side} does not pool its features by their mean, so "
    "those of its parts cannot stand for it; set it to null"
)
BATCH = 16  # samples encoded at a time: few enough to stay in a CPU's cache

Members = dict[str, bytes]  # a sample's files, by extension


@dataclass(frozen=True)
class LockedSides:
    """Sides whose encoders no stage trains."""

    image: bool
    text: bool


def locked_sides(method: Method, recipe: Recipe) -> LockedSides:
    """Find the encoders that stay as they are in every stage of a recipe.

    Raises `UserError` when there is none.
    """
    image, text = True, recipe.method.text is not None
    with unchanged(method):
        for stage in recipe.stages:
            select_trained(method, stage.train)
            image = image and locked(_encoder(method, "image"))
            text = text and locked(_encoder(method, "text"))
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
    """Return the shard set of features of `manifest`, computing what is not there yet.

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
        transform = ImageTransform(recipe.method.image.size)
        encoding = _Encoding(method, transform, tokenizer, sides, device)
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


@dataclass(frozen=True)
class _Encoding:
    """How samples are encoded: by which locked encoders, and what goes into them."""

    method: Method
    transform: ImageTransform
    tokenizer: CaptionTokenizer
    sides: LockedSides
    device: torch.device


@dataclass
class _Parts:
    """What of a sample is encoded."""

    sample: RawSample
    record: dict[str, Any]  # its JSON to be
    captions: list[str]
    images: dict[str, bytes]  # digests, by role


def _write_shard(
    path: Path, encoding: _Encoding, samples: SampleReader, numbers: range
) -> list[Fault]:
    """Write the features of a shard's samples and return those that could not be read."""
    # A name of its own, because another job may be filling the same cache.
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    shard = _ShardEncoder(encoding, _uses(samples, numbers) if encoding.sides.image else Counter())
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
            uses.update(_digest_of(data) for data in sample.files.values() if data)
    return uses


class _ShardEncoder:
    """Encodes a shard's samples; an image that several of them have, once."""

    def __init__(self, encoding: _Encoding, uses: Counter[bytes]) -> None:
        self.encoding, self.uses = encoding, uses
        self.known: dict[bytes, tuple[bytes, bytes | None]] = {}  # features and lower ones

    def encode(self, samples: Sequence[RawSample]) -> list[Members | Fault]:
        """Return the files of each sample, or why there are none."""
        pixels: dict[bytes, Tensor] = {}
        read = [self._read(sample, pixels) for sample in samples]
        parts = [one for one in read if isinstance(one, _Parts)]
        with torch.no_grad(), in_precision(self.encoding.method):
            self._encode_images(pixels)
            texts = iter(self._encode_texts([part.captions for part in parts]))
        made = [one if isinstance(one, Fault) else self._files(one, next(texts)) for one in read]
        self.uses.subtract(digest for part in parts for digest in part.images.values())
        self.known = {digest: made for digest, made in self.known.items() if self.uses[digest] > 0}
        return made

    def _read(self, sample: RawSample, pixels: dict[bytes, Tensor]) -> _Parts | Fault:
        """Return what of a sample is to be encoded; images that are new go into `pixels`."""
        images: dict[str, bytes] = {}
        try:
            captions = sample.captions() if self.encoding.sides.text else []
            record = _record(sample, captions)
            for role in _roles(sample) if self.encoding.sides.image else ():
                data = sample.image(role)
                images[role] = digest = _digest_of(data)
                if digest not in self.known and digest not in pixels:
                    random = np.random.default_rng(0)
                    pixels[digest] = self.encoding.transform(open_image(data), random)
        except BadSample as cause:
            return Fault(sample.shard, sample.key, str(cause))
        return _Parts(sample, record, captions, images)

    def _encode_images(self, pixels: dict[bytes, Tensor]) -> None:
        if not pixels:
            return
        images = torch.stack(list(pixels.values())).to(self.encoding.device)
        features, lower = _features(self.encoding.method, "image", (images,))
        for row, digest in enumerate(pixels):
            self.known[digest] = (_npy(features[row]), None if lower is None else _npy(lower[row]))

    def _encode_texts(self, captions: list[list[str]]) -> Sequence[bytes | None]:
        """Return each sample's features of its captions; None where captions are not encoded."""
        if not self.encoding.sides.text or not captions:
            return [None] * len(captions)
        flat = [caption for own in captions for caption in own]
        tokens, mask = (part.to(self.encoding.device) for part in self.encoding.tokenizer(flat))
        features, _ = _features(self.encoding.method, "text", (tokens, mask))
        if self.encoding.method.local:  # as many rows in every batch
            missing = self.encoding.tokenizer.context - features.shape[1]
            features = F.pad(features, (0, 0, 0, missing))
        return [_npy(own) for own in features.split([len(own) for own in captions])]

    def _files(self, parts: _Parts, texts: bytes | None) -> Members:
        files = _unencoded(parts.sample, self.encoding.sides)
        files["json"] = json.dumps(parts.record).encode()
        for role, digest in parts.images.items():
            files[f"{role}.npy"], lower = self.known[digest]
            if role == "target" and lower is not None:
                files["target.lower.npy"] = lower
        if texts is not None:
            files["text.npy"] = texts
        return files


def _roles(sample: RawSample) -> list[str]:
    """Return what images a sample has to have; a query's target may not be published."""
    if not sample.composed:
        return ["image"]
    published = any(name in sample.files for name in IMAGES["target"])
    return ["source", "target"] if published else ["source"]


def _record(sample: RawSample, captions: list[str]) -> dict[str, Any]:
    """Return a sample's JSON with what could no longer be told from where the sample is."""
    said = {"modification" if sample.composed else "captions": captions} if captions else {}
    return sample.record | said | ({} if sample.composed else {"image_id": sample.image_id})


def _unencoded(sample: RawSample, sides: LockedSides) -> Members:
    """Return the files that hold what encoders that are trained read, or their features."""
    names: set[str] = set()
    if not sides.image:
        names |= {name for role in IMAGES for name in (*IMAGES[role], f"{role}.npy")}
    if not sides.text:
        names |= {"txt", "text.npy"}
    return {name: data or b"" for name, data in sample.files.items() if name in names}


def _features(
    method: Method, side: str, inputs: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor | None]:
    """Return a side's features of a batch, those of parts where the method reads them, and those
    of a lower layer where it reads them.

    Raises `UserError` where the features of the whole could not be had from those of the parts.
    """
    encoder = _encoder(method, side)
    if not method.local:
        whole: Tensor = encoder(*inputs)
        return whole.float().cpu(), None
    local: Local = encoder.local(*inputs)
    rows, pooled = local.rows.float(), local.pooled.float()
    mean = masked_mean(rows, local.mask)
    if mean.shape != pooled.shape or (mean - pooled).norm() > 0.05 * pooled.norm():
        raise UserError(NO_MEAN.format(side=side))
    return rows.cpu(), None if local.lower is None else local.lower.float().cpu()


def _encoder(method: Method, side: str) -> Encoder:
    encoder = method.get_submodule(f"{side}.backbone")
    assert isinstance(encoder, Encoder)
    return encoder


def _digest_of(image: bytes) -> bytes:
    return hashlib.blake2b(image, digest_size=16).digest()


def _npy(values: Tensor) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values.numpy(), allow_pickle=False)
    return buffer.getvalue()


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
    """Return a name that is another one as soon as the features would be."""
    config = recipe.method
    settings = {
        "shards": [manifest.storage.identity(shard.url) for shard in manifest.shards],
        "image": config.image.model_dump(mode="json") if sides.image else None,
        "text": config.text.model_dump(mode="json") if config.text and sides.text else None,
        "tokenizer": tokenizer.tokenizer.to_str() if sides.text else None,
        "size": config.image.size,
        "bf16": method.bf16,
        "local": method.local,
        "level": getattr(config, "level", None) if method.lower else None,
    }
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=8)
    # The weights themselves: a file of one name may hold others tomorrow.
    for is_locked, side in ((sides.image, "image"), (sides.text, "text")):
        for tensor in _encoder(method, side).state_dict().values() if is_locked else ():
            digest.update(tensor.cpu().flatten().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
