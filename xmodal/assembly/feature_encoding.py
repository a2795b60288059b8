"""Features of samples by locked encoders, as the files of a feature shard."""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xmodal.assembly.feature_shards import Members
from xmodal.data.batch import Fault
from xmodal.data.decode import BadSample, open_image
from xmodal.data.samples import IMAGES, RawSample
from xmodal.data.tokens import CaptionTokenizer
from xmodal.data.transforms import ImageTransform
from xmodal.errors import UserError
from xmodal.methods.method import Method, in_precision
from xmodal.models.encoder import Encoder, Local, masked_mean

NO_MEAN = (
    "data.feature_cache: the encoder of method.{side} does not pool its features by their mean, so "
    "features of parts cannot replace it; set it to null"
)


@dataclass(frozen=True)
class LockedSides:
    """Sides whose encoders no stage trains."""

    image: bool
    text: bool


@dataclass(frozen=True)
class Encoding:
    """Locked encoders, and the preparation of their inputs."""

    method: Method
    transform: ImageTransform
    tokenizer: CaptionTokenizer
    sides: LockedSides
    device: torch.device


@dataclass
class _Parts:
    """The parts of a sample that are encoded."""

    sample: RawSample
    record: dict[str, Any]  # its JSON to be
    captions: list[str]
    images: dict[str, bytes]  # digests, by role


class ShardEncoder:
    """Encodes the samples of a shard, an image of several samples only once.

    `uses` counts the samples of each image, by digest.
    """

    def __init__(self, encoding: Encoding, uses: Counter[bytes]) -> None:
        self.encoding, self.uses = encoding, uses
        self.known: dict[bytes, tuple[bytes, bytes | None]] = {}  # features and lower ones

    def encode(self, samples: Sequence[RawSample]) -> list[Members | Fault]:
        """Return the files of each sample, or its fault."""
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
        """Return the parts of a sample to encode; new images go into `pixels`."""
        images: dict[str, bytes] = {}
        try:
            captions = sample.captions() if self.encoding.sides.text else []
            record = _record(sample, captions)
            for role in _roles(sample) if self.encoding.sides.image else ():
                data = sample.image(role)
                images[role] = digest = image_digest(data)
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
            self.known[digest] = (npy(features[row]), None if lower is None else npy(lower[row]))

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
        return [npy(own) for own in features.split([len(own) for own in captions])]

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
    """Return the roles of a sample's images; the target of a query may be unpublished."""
    if not sample.composed:
        return ["image"]
    published = any(name in sample.files for name in IMAGES["target"])
    return ["source", "target"] if published else ["source"]


def _record(sample: RawSample, captions: list[str]) -> dict[str, Any]:
    """Return a sample's JSON, with the captions, classes and image id that its files no longer
    give.
    """
    name = "modification" if sample.composed else "captions"
    said: dict[str, Any] = {name: captions} if captions else {}
    if captions and "false_captions" in sample.record:
        said["false_captions"] = sample.false_captions()
    classes = {"labels": sample.labels()} if "cls" in sample.files else {}
    ids = {} if sample.composed else {"image_id": sample.image_id}
    return sample.record | said | classes | ids


def _unencoded(sample: RawSample, sides: LockedSides) -> Members:
    """Return the files that trained encoders read, or their features."""
    names: set[str] = set()
    if not sides.image:
        names |= {name for role in IMAGES for name in (*IMAGES[role], f"{role}.npy")}
    if not sides.text:
        names |= {"txt", "text.npy"}
    return {name: data or b"" for name, data in sample.files.items() if name in names}


def _features(
    method: Method, side: str, inputs: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor | None]:
    """Return a side's features of a batch, of parts where the method reads them, and those of a
    lower layer where it reads them.

    Raises `UserError` where features of parts do not give those of the whole.
    """
    encoder = encoder_of(method, side)
    if not method.local:
        whole: Tensor = encoder(*inputs)
        return whole.float().cpu(), None
    local: Local = encoder.local(*inputs)
    rows, pooled = local.rows.float(), local.pooled.float()
    mean = masked_mean(rows, local.mask)
    if mean.shape != pooled.shape or (mean - pooled).norm() > 0.05 * pooled.norm():
        raise UserError(NO_MEAN.format(side=side))
    return rows.cpu(), None if local.lower is None else local.lower.float().cpu()


def encoder_of(method: Method, side: str) -> Encoder:
    """Return the encoder of a side."""
    encoder = method.get_submodule(f"{side}.backbone")
    assert isinstance(encoder, Encoder)
    return encoder


def image_digest(image: bytes) -> bytes:
    """Return the digest of an image file."""
    return hashlib.blake2b(image, digest_size=16).digest()


def npy(values: Tensor) -> bytes:
    """Return an array in NumPy's format."""
    buffer = io.BytesIO()
    np.save(buffer, values.numpy(), allow_pickle=False)
    return buffer.getvalue()
