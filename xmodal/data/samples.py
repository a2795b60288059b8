"""From a sample's members in a tar to captions, image and id."""

import hashlib
import io
import json
import os
from bisect import bisect_right
from collections import OrderedDict
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np

from xmodal.data.decode import BadSample
from xmodal.data.manifest import Manifest, Sample, Shard
from xmodal.errors import UserError

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")


class OpenShards:
    """Reads shards at byte offsets; at most `limit` of them are open at a time."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._files: OrderedDict[str, int] = OrderedDict()

    def read(self, url: str, offset: int, size: int) -> bytes:
        """Return up to `size` bytes of a shard, fewer at its end.

        Raises `UserError` when the shard cannot be read.
        """
        try:
            return os.pread(self._descriptor(url), size, offset)
        except OSError as error:
            raise UserError(f"shard {url} cannot be read: {error.strerror}") from None

    def _descriptor(self, url: str) -> int:
        if url not in self._files:
            if len(self._files) >= self.limit:
                os.close(self._files.popitem(last=False)[1])
            self._files[url] = os.open(url, os.O_RDONLY | os.O_CLOEXEC)
        self._files.move_to_end(url)
        return self._files[url]

    def __del__(self) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)


class SampleReader:
    """Reads the members of a manifest's samples by their number, at their byte offsets.

    Samples are numbered in the manifest's order. Open files and parsed indices are few at a time.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.shards = manifest.shards
        self._ends = list(accumulate(shard.num_samples for shard in manifest.shards))
        # No reference to the reader itself, which would keep it and its open files from going.
        self._index = lru_cache(maxsize=64)(lambda shard: manifest.shards[shard].samples())
        self._files = OpenShards(limit=64)

    def __len__(self) -> int:
        return self._ends[-1]

    def locate(self, number: int) -> tuple[Shard, Sample]:
        """Return the shard and the members of sample `number`."""
        shard = bisect_right(self._ends, number)
        start = self._ends[shard - 1] if shard else 0
        return self.shards[shard], self._index(shard)[number - start]

    def read(self, number: int, *extensions: str) -> bytes | None:
        """Return the bytes of the first member that the sample has of `extensions`, or None.

        Raises `BadSample` for a member that is empty or reaches past the end of the tar.
        """
        shard, sample = self.locate(number)
        for extension in extensions:
            if extension in sample.members:
                offset, size = sample.members[extension]
                if not size:
                    raise BadSample(f"{extension} is empty")
                data = self._files.read(shard.url, offset, size)
                if len(data) < size:
                    raise BadSample(f"{extension} is cut short")
                return data
        return None

    def image(self, number: int) -> bytes:
        """Return the encoded image of a sample; `BadSample` where it has none."""
        data = self.read(number, *IMAGE_EXTENSIONS)
        if data is None:
            raise BadSample("no image: expected a member " + ", ".join(IMAGE_EXTENSIONS))
        return data

    def features(self, number: int, side: str) -> np.ndarray | None:
        """Return cached features: (features,) of the image or (captions, features) of the text."""
        data = self.read(number, f"{side}.npy")
        return None if data is None else np.load(io.BytesIO(data), allow_pickle=False)

    def captions(self, number: int) -> tuple[list[str], str]:
        """Return a sample's captions, at least one, and its image id.

        Raises `BadSample` for captions that are missing, empty, or not UTF-8.
        """
        shard, sample = self.locate(number)
        values = _json(self.read(number, "json"))
        captions = values.get("captions")
        if captions is None:
            text = self.read(number, "txt")
            if text is None:
                raise BadSample("no caption: expected captions in its json, or a txt")
            captions = [_utf8(text, "txt").strip()]
        if not isinstance(captions, list) or not all(isinstance(one, str) for one in captions):
            raise BadSample("captions in its json are not a list of strings")
        captions = [caption for caption in captions if caption.strip()]
        if not captions:
            raise BadSample("caption is empty")
        if not all(map(_is_unicode, captions)):
            raise BadSample("caption in its json has half a surrogate pair")
        image_id = values.get("image_id")
        return captions, f"{shard.url}/{sample.key}" if image_id is None else str(image_id)


def hash_id(image_id: str) -> int:
    """Return an int64 that is the same for the same image id on every machine."""
    digest = hashlib.blake2b(image_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _json(data: bytes | None) -> dict[str, Any]:
    if data is None:
        return {}
    try:
        values = json.loads(_utf8(data, "json"))
    except (json.JSONDecodeError, RecursionError):
        raise BadSample("json does not parse") from None
    if not isinstance(values, dict):
        raise BadSample("json is not an object")
    return values


def _is_unicode(text: str) -> bool:
    """Tell whether a string is whole characters; JSON can write halves of them."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _utf8(data: bytes, extension: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadSample(f"caption in its {extension} is not UTF-8 (byte {error.start})") from None
