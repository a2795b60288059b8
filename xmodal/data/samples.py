"""One sample as it was read from its tar: its captions, images, features and ids."""

import hashlib
import io
import json
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np

from xmodal.data.decode import BadSample
from xmodal.data.limits import MAX_CAPTION_CHARACTERS

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
# The images that a sample can have, by the files that each may be: its own, or a query's two.
IMAGES = {
    "image": IMAGE_EXTENSIONS,
    "source": tuple(f"source.{extension}" for extension in IMAGE_EXTENSIONS),
    "target": tuple(f"target.{extension}" for extension in IMAGE_EXTENSIONS),
}
_parse = msgspec.json.Decoder().decode
_FLOAT32 = np.dtype("<f4")
_MAGIC = b"\x93NUMPY\x01\x00"


class RawSample:
    """The files of a sample by extension, and where it stands.

    A file that reaches past the end of its tar is None. `doubt` is what is wrong with the sample
    as a whole. Every method raises `BadSample` for what cannot be used.
    """

    def __init__(
        self, shard: str, key: str, files: Mapping[str, Any], doubt: str | None = None
    ) -> None:
        self.shard, self.key, self.files = shard, key, files
        self._record: dict[str, Any] | None = None
        if ".." in key and ".." in key.split("/"):
            doubt = doubt or "`..` in its path"
        self.doubt = doubt

    def read(self, *extensions: str) -> Any:
        """Return the first file that the sample has of `extensions`, or None."""
        if self.doubt:
            raise BadSample(self.doubt)
        for extension in extensions:
            if extension in self.files:
                data = self.files[extension]
                if data is None:
                    raise BadSample(f"{extension} is cut short")
                if not data:
                    raise BadSample(f"{extension} is empty")
                return data
        return None

    def image(self, role: str = "image") -> bytes:
        """Return an encoded image: the sample's own, or the `source` or `target` of a query."""
        data = self.read(*IMAGES[role])
        if data is None:
            raise BadSample("no image: expected a member " + ", ".join(IMAGES[role]))
        return data

    def features(self, side: str) -> np.ndarray | None:
        """Return features in place of the `image`, (…), or of the `text`, (captions, …).

        Of a composed query, those of `source`, `target` and `target.lower`, a lower layer's.
        """
        data = self.read(f"{side}.npy")
        if data is None:
            return None
        values = _array(data, side)
        if side == "text" and (values.ndim < 2 or not len(values)):
            raise BadSample("text.npy has no row a caption")
        return values

    @property
    def record(self) -> dict[str, Any]:
        """The sample's JSON, empty where it has none."""
        if self._record is None:
            data = self.read("json")
            self._record = {} if data is None else _json(data)
        return self._record

    @property
    def composed(self) -> bool:
        """Whether it is a query: a source image, and a modification that makes it the target."""
        return self.record.get("modification") is not None

    @property
    def image_id(self) -> str:
        """What says that two samples have the same image; the place of the sample by default."""
        image_id = self._id("image_id")
        return f"{self.shard}/{self.key}" if image_id is None else image_id

    @property
    def source_id(self) -> str:
        """The id of a query's source."""
        source_id = self._id("source_id")
        if source_id is None:
            raise BadSample("no source_id in its json")
        return source_id

    @property
    def target_id(self) -> str | None:
        """The id of the image that a query asks for; None where that is not published."""
        return self._id("target_id")

    def ids(self, name: str) -> list[str]:
        """Return the ids of images that the JSON has under a name; none where it has no such."""
        ids = self.record.get(name, [])
        if not isinstance(ids, list) or not all(isinstance(one, str | int) for one in ids):
            raise BadSample(f"{name} in its json are no list of ids")
        return [str(one) for one in ids]

    def _id(self, name: str) -> str | None:
        found = self.record.get(name)
        if found is None:
            return None
        if not isinstance(found, str | int):
            raise BadSample(f"{name} in its json is no text or number")
        return str(found)

    def captions(self) -> list[str]:
        """Return all captions, at least one: those of the JSON, else the text file.

        A query has one, its modification.
        """
        if modification := self.texts("modification"):
            return modification
        in_record = self.record.get("captions") or "txt" not in self.files
        captions = self.texts("captions" if in_record else "txt")
        if captions is None:
            raise BadSample("no caption: expected captions in its json, or a txt")
        return captions

    def labels(self) -> list[str]:
        """Return the classes that the sample is of; none where its JSON names none."""
        labels = self.record.get("labels", [])
        if not isinstance(labels, list) or not all(isinstance(one, str) for one in labels):
            raise BadSample("labels in its json are no list of strings")
        return labels

    def label(self) -> str:
        """Return the class that the sample is trained as: its first."""
        labels = self.labels()
        if not labels:
            raise BadSample("no label, which the method learns from")
        return labels[0]

    def texts(self, name: str) -> list[str] | None:
        """Return the texts under a key of the JSON, or in `txt`; None where there is no such."""
        if name == "txt":
            data = self.read("txt")
            found = None if data is None else _utf8(data, "txt").strip()
        else:
            found = self.record.get(name)
        if found is None:
            return None
        return _texts(found, name)

    def draw(self, drawn: float, keys: Mapping[str, float], besides: str | None = None) -> str:
        """Return the caption that a number `drawn` from 0 to 1 points at: any of `captions()`, or
        first a key by probability, then one under it.

        Keys that this sample does not have leave their probability to the others. The caption
        `besides` is returned only where there is no other.
        """
        if not keys:
            captions = _others(self.captions(), besides)
        else:
            found = {name: texts for name in keys if (texts := self.texts(name))}
            if not found:
                raise BadSample(f"no caption: expected {' or '.join(keys)}")
            if besides is not None:
                others = {name: _others(texts, besides) for name, texts in found.items()}
                found = {k: v for k, v in others.items() if besides not in v} or found
            drawn *= sum(keys[name] for name in found)
            name = next(iter(found))
            for name in found:
                if drawn < keys[name]:
                    break
                drawn -= keys[name]
            captions, drawn = found[name], min(max(drawn, 0) / keys[name], 1 - 1e-9)
        return captions[int(drawn * len(captions))]


def _others(captions: list[str], besides: str | None) -> list[str]:
    """Return the captions without one; all of them where there is no other."""
    if besides is None:
        return captions
    return [caption for caption in captions if caption != besides] or captions


def hash_id(image_id: str) -> int:
    """Return an int64 that is the same for the same image id on every machine."""
    digest = hashlib.blake2b(image_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _json(data: bytes) -> dict[str, Any]:
    try:
        values = _parse(data)
    except (ValueError, RecursionError, msgspec.MsgspecError):
        values = _parse_again(_utf8(data, "json"))
    if not isinstance(values, dict):
        raise BadSample("json is not an object")
    return values


def _parse_again(text: str) -> Any:
    """Return what Python's own parser, which bears more, makes of a JSON that msgspec refuses."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise BadSample("json does not parse") from None


def _texts(found: object, name: str) -> list[str]:
    captions = [found] if isinstance(found, str) else found
    if not isinstance(captions, list) or not all(isinstance(one, str) for one in captions):
        raise BadSample(f"{name} in its json are not a list of strings")
    captions = [caption for caption in captions if caption.strip()]
    if not captions:
        raise BadSample("caption is empty")
    if any(len(caption) > MAX_CAPTION_CHARACTERS for caption in captions):
        raise BadSample(f"caption is over {MAX_CAPTION_CHARACTERS:,} characters")
    if not all(map(_is_unicode, captions)):
        raise BadSample("caption in its json has half a surrogate pair")
    return captions


def _array(data: Any, side: str) -> np.ndarray:
    start = 10 + data[8] + 256 * data[9] if len(data) > 10 else 0
    dtype, shape, size = _header(bytes(data[:start]))
    if dtype is None or len(data) != start + size:
        raise BadSample(f"{side}.npy is no array of numbers in NumPy's format 1, or is cut")
    values: np.ndarray = np.ndarray(shape, dtype, data, start)
    if dtype is not _FLOAT32:
        with np.errstate(over="ignore"):
            values = values.astype(np.float32)
    # A finite sum of squares tells of all of them, at a fraction of the time and without warnings.
    if not math.isfinite(np.vdot(values, values)) and not np.isfinite(values).all():
        raise BadSample(f"{side}.npy has values that are not finite")
    return values


@lru_cache(maxsize=1024)
def _header(text: bytes) -> tuple[np.dtype | None, tuple[int, ...], int]:
    """Read an array's kind, shape and bytes; what would need a pickle has no kind."""
    if not text.startswith(_MAGIC):
        return None, (), 0
    try:
        file = io.BytesIO(text[len(_MAGIC) :])
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    except Exception:  # whatever the bytes lead Python's parser to
        return None, (), 0
    if (fortran and len(shape) > 1) or dtype.kind not in "fiu" or min(shape, default=0) < 0:
        return None, (), 0
    return (_FLOAT32 if dtype == _FLOAT32 else dtype), shape, dtype.itemsize * math.prod(shape)


def _is_unicode(text: str) -> bool:
    """Tell whether a string is whole characters; JSON can write halves of them."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _utf8(data: bytes, extension: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise BadSample(f"caption in its {extension} is not UTF-8") from None
