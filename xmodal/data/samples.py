"""A sample read from its tar: its captions, images, features and ids."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np

from xmodal.data.chance import choose_text
from xmodal.data.decode import BadSample
from xmodal.data.feature_arrays import read_array
from xmodal.data.fields import (
    Captions,
    FalseCaptions,
    Labels,
    captions_of,
    false_captions_of,
    id_of,
    ids_of,
    is_missing,
    labels_of,
)
from xmodal.data.limits import MAX_CAPTIONS, MAX_SAMPLE_BYTES, MAX_TEXT_BYTES

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
# The images that a sample can have, by the files that each may be: its own, or a query's two.
IMAGES = {
    "image": IMAGE_EXTENSIONS,
    "source": tuple(f"source.{extension}" for extension in IMAGE_EXTENSIONS),
    "target": tuple(f"target.{extension}" for extension in IMAGE_EXTENSIONS),
}
COMES_TWICE = "key comes twice in its shard"
FEATURES = ("image", "text", "source", "target", "target.lower")
# All the files of a sample that are ever read.
EXTENSIONS = frozenset(
    ["json", "txt", "cls", *(f"{side}.npy" for side in FEATURES), *sum(IMAGES.values(), ())]
)
ANY = {"": 1.0}  # where a recipe names no keys of texts
_NO_CAPTIONS = Captions([], [], [])
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # which editors put before UTF-8
_parse = msgspec.json.Decoder().decode


class RawSample:
    """Files of a sample by extension, and its place.

    A file that reaches past the end of its tar is None. `doubt` is a fault of the whole sample;
    `places` are the offset and size of each file in the tar, where known; `number` is the sample's
    in its shard set.
    Every method raises `BadSample` for unusable data; faults of parts are listed in `dropped`, and
    the other parts are returned.
    """

    def __init__(
        self,
        shard: str,
        key: str,
        files: Mapping[str, Any],
        doubt: str | None = None,
        places: Mapping[str, tuple[int, int]] = MappingProxyType({}),
        number: int = 0,
    ) -> None:
        self.shard, self.key, self.files, self.places = shard, key, files, places
        self.number = number
        self._record: dict[str, Any] | None = None
        self._texts: dict[str, Captions] = {}  # by the key of the JSON, or `txt`
        self._labels: Labels | None = None
        self._false: FalseCaptions | None = None
        if ".." in key and ".." in key.split("/"):
            doubt = doubt or "`..` in its path"
        self.doubt = doubt

    @property
    def dropped(self) -> list[str]:
        """Faults of captions and labels dropped so far."""
        causes = [cause for texts in self._texts.values() for cause in texts.dropped]
        parts = (part for part in (self._labels, self._false) if part)
        return causes + [cause for part in parts for cause in part.dropped]

    def read(self, *extensions: str) -> Any:
        """Return the first file that the sample has of `extensions`, or None."""
        if self.doubt:
            raise BadSample(self.doubt)
        for extension in extensions:
            if extension in self.files:
                data = self.files[extension]
                if data is None:
                    raise BadSample(f"{extension} is truncated")
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

    def has_image(self, role: str = "image") -> bool:
        """Return True if the sample has a file of an image, or of its features."""
        return any(name in self.files for name in (*IMAGES[role], f"{role}.npy"))

    def features(self, side: str) -> np.ndarray | None:
        """Return features of the `image`, (features,) or (regions, features), or of the `text`,
        (captions, …), one row for each of `captions()`; None if the sample has none.

        Composed queries have features of `source`, `target` and `target.lower` (a lower layer).
        """
        data = self.read(f"{side}.npy")
        if data is None:
            return None
        values = read_array(data, side)
        if side != "text":
            return values
        said = self.said()
        if said.total and said.total != len(values):
            raise BadSample("text.npy has not a row for each caption")
        if said.dropped and not said.kept:
            raise BadSample(said.dropped[0])
        return values[said.places] if said.dropped else values

    @property
    def record(self) -> dict[str, Any]:
        """The sample's JSON; empty if there is none."""
        if self._record is None:
            data = self.read("json")
            self._record = {} if data is None else _json(data)
        return self._record

    @property
    def composed(self) -> bool:
        """True if the sample is a composed query: a source image and a modification."""
        modification = self.record.get("modification")
        return modification != [] and not is_missing(modification)

    @property
    def image_id(self) -> str:
        """Id that samples of the same image share; the place of the sample by default."""
        image_id = id_of(self.record.get("image_id"))
        return f"{self.shard}/{self.key}" if image_id is None else image_id

    @property
    def source_id(self) -> str:
        """Id of a query's source."""
        source_id = id_of(self.record.get("source_id"), "source_id")
        if source_id is None:
            raise BadSample("no source_id in its json")
        return source_id

    @property
    def target_id(self) -> str | None:
        """Id of a query's target; None if it is not published."""
        return id_of(self.record.get("target_id"), "target_id")

    def ids(self, name: str) -> list[str]:
        """Return the image ids under a name of the JSON; none if there is no such name."""
        return ids_of(self.record.get(name), name)

    def captions(self) -> list[str]:
        """Return all captions that can be used, at least one: those of the JSON, else the lines of
        the text file.

        A query has one, its modification.
        """
        said = self.said()
        if not said.kept:
            cause = "no caption: expected captions in its json, or a txt"
            raise BadSample(said.dropped[0] if said.dropped else cause)
        return said.kept

    def modification(self) -> str:
        """Return the modification of a query."""
        if not self.composed:
            raise BadSample("no modification in its json")
        return self.captions()[0]

    def said(self) -> Captions:
        """Return the usable captions, and the faults of the others."""
        found = _NO_CAPTIONS
        for name in ("modification",) if self.composed else ("captions", "txt"):
            texts = self.texts(name)
            if texts.kept:
                return texts
            found = found if found.total else texts
        return found

    def texts(self, name: str) -> Captions:
        """Return the texts under a key of the JSON, or in the lines of `txt`."""
        if name not in self._texts:
            if name == "txt":
                self._texts[name] = captions_in(self.read("txt"))
            else:
                what = "caption" if name == "captions" else name
                self._texts[name] = captions_of(self.record.get(name), what)
        return self._texts[name]

    def false_captions(self) -> list[list[str]]:
        """Return of each of `captions()` the captions that are false of the image, if any."""
        if self._false is None:
            self._false = false_captions_of(self.record.get("false_captions"), self.said())
        return self._false.kept

    def labels(self) -> list[str]:
        """Return the sample's classes: those of its JSON, else of `cls`; none if it has neither."""
        if self._labels is None:
            value = self.record.get("labels")
            if is_missing(value) and (data := self.read("cls")) is not None:
                value = _utf8(_text(data, "cls"), "cls")
            self._labels = labels_of(value)
        return self._labels.kept

    def label(self) -> str:
        """Return the class used in training: the first one."""
        labels = self.labels()
        if not labels:
            raise BadSample("no label, which the method learns from")
        return labels[0]

    def draw(
        self,
        drawn: float,
        keys: Mapping[str, float],
        besides: str | None = None,
        *,
        templates: Sequence[str] = (),
    ) -> str:
        """Return the caption selected by a random number `drawn` in [0, 1): any of `captions()`, or
        a key by probability, then a caption under it.

        Probabilities of missing keys are distributed over the others. The caption `besides` is
        returned only if there is no other. Texts under `labels` are put into each of `templates`.
        """
        found = self.drawable(keys, templates)
        if besides is not None:
            others = {name: _others(texts, besides) for name, texts in found.items()}
            found = {k: v for k, v in others.items() if besides not in v} or found
        counts = {name: len(texts) for name, texts in found.items()}
        name, number = choose_text(drawn, counts, keys or ANY)
        return found[name][number]

    def drawable(self, keys: Iterable[str], templates: Sequence[str]) -> dict[str, list[str]]:
        """Return the texts under each key that has any, at least one; see `draw`.

        Without keys, all captions are under that of `ANY`.
        """
        if not keys:
            return dict.fromkeys(ANY, self.captions())
        found = {name: self.texts(name) for name in keys}
        kept = {name: texts.kept for name, texts in found.items() if texts.kept}
        if not kept:
            dropped = [cause for texts in found.values() for cause in texts.dropped]
            none = f"no caption: expected {' or '.join(keys)}, the keys that `texts` draws from"
            raise BadSample(dropped[0] if dropped else none)
        if templates and "labels" in kept:
            kept["labels"] = [t.replace("{}", label) for t in templates for label in kept["labels"]]
        return kept


def read_sample(
    shard: str,
    key: str,
    members: Mapping[str, tuple[int, int]],
    read: Callable[[int, int], bytes],
    doubt: str | None = None,
) -> RawSample:
    """Read the known files of a sample one by one, unless they are too large.

    `read` returns the bytes at an offset, of a size; `doubt` is a fault of the sample.
    """
    used = {extension: place for extension, place in members.items() if extension in EXTENSIONS}
    doubt = doubt or doubt_of_size(size for _, size in used.values())
    files = {} if doubt else {extension: read(*place) for extension, place in used.items()}
    return RawSample(shard, key, files, doubt)


def doubt_of_size(sizes: Iterable[int]) -> str | None:
    """Return the fault of a sample whose files are too large, before reading them."""
    total = sum(sizes)
    return f"files of over {MAX_SAMPLE_BYTES:,} bytes" if total > MAX_SAMPLE_BYTES else None


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
    text = _text(data, "json")
    try:
        values = _parse(text)
    except (ValueError, RecursionError, msgspec.MsgspecError):
        values = _parse_again(_utf8(text, "json"))
    if not isinstance(values, dict):
        raise BadSample("json is not an object")
    return values


def _parse_again(text: str) -> Any:
    """Return what Python's own parser, which bears more, makes of a JSON that msgspec refuses."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise BadSample("json does not parse") from None


def captions_in(data: bytes | None) -> Captions:
    """Return the captions of a text file, one a line; blank lines are none.

    Raises `BadSample` if it is too large or not UTF-8.
    """
    if data is None:
        return _NO_CAPTIONS
    text = _utf8(_text(data, "txt"), "txt").replace("\r", "\n")
    if text.count("\n") > 100 * MAX_CAPTIONS:
        raise BadSample(f"more than {MAX_CAPTIONS:,} captions")
    lines = [line.strip() for line in text.split("\n")]
    return captions_of([line for line in lines if line] or [""])


def _text(data: bytes, extension: str) -> bytes:
    """Return what stands in a text file of bearable size, without the mark of its byte order."""
    if len(data) > MAX_TEXT_BYTES:
        raise BadSample(f"{extension} is over {MAX_TEXT_BYTES:,} bytes")
    return data.removeprefix(_BYTE_ORDER_MARK)


def _utf8(data: bytes, extension: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        what = "label" if extension == "cls" else "caption"
        raise BadSample(f"{what} in its {extension} is not UTF-8") from None
