"""Lengths of the texts of a shard, in the `.lengths` beside its tar, known before any is read.

They are counted in bytes of UTF-8: tokens would be those of one tokenizer, and bytes order texts
almost as tokens do, across scripts too. The file is JSON: the digest of the tar's `.idx`, and of
each key that holds texts the number of texts of each sample, and the lengths of all.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

import msgspec
import numpy as np

from xmodal.data.chance import choose_text
from xmodal.data.decode import BadSample
from xmodal.data.manifest import Manifest
from xmodal.data.reader import SampleReader
from xmodal.data.recent import Recent
from xmodal.data.samples import ANY, RawSample
from xmodal.data.storage import split_url
from xmodal.errors import UserError

_AT_ONCE = 256  # samples that are read together
# Lengths of the texts of a sample, under each key that has any.
SampleLengths = dict[str, list[int]]


class _OfKey(msgspec.Struct):
    counts: list[int]  # texts of each sample
    lengths: list[int]  # of all texts, sample by sample


class _File(msgspec.Struct):
    index: str  # digest of the tar's index
    texts: dict[str, _OfKey]


class ShardLengths:
    """Lengths of the texts of a shard, as arrays: a run holds those of as many shards as lanes."""

    def __init__(self, file: _File) -> None:
        self.index = file.index
        texts = file.texts.items()
        self._ends = {key: np.cumsum([0, *of.counts], dtype=np.int64) for key, of in texts}
        self._lengths = {key: np.array(of.lengths, np.int32) for key, of in texts}

    def fits(self, index: str, num_samples: int) -> bool:
        """Return whether these are the lengths of the tar with that index."""
        return self.index == index and all(
            len(ends) == num_samples + 1 and ends[-1] == len(self._lengths[key])
            for key, ends in self._ends.items()
        )

    def of(self, number: int) -> SampleLengths:
        """Return the lengths of a sample."""
        places = {key: slice(*ends[number : number + 2]) for key, ends in self._ends.items()}
        return {
            key: self._lengths[key][place].tolist()
            for key, place in places.items()
            if place.start < place.stop
        }


class TextLengths:
    """Lengths of the texts that are drawn from the samples of a manifest, by their numbers.

    `keys` and `templates` are those of `RawSample.draw`. Shards that were read last are kept.
    """

    def __init__(
        self, manifest: Manifest, keys: Mapping[str, float] = ANY, templates: Sequence[str] = ()
    ) -> None:
        self.manifest, self.keys, self.templates = manifest, keys or ANY, templates
        self._ends = list(accumulate(shard.num_samples for shard in manifest.shards))
        self._read = Recent[ShardLengths](512)

    def drawn(self, number: int, drawn: float) -> int:
        """Return the length of the text that a random number selects; 0 where there is none."""
        place = bisect_right(self._ends, number)
        shard = self.manifest.shards[place]
        number -= self._ends[place] - shard.num_samples
        if shard.kept:
            number = int(shard.kept.numbers[number])
        lengths = self._read.get(self, place, lambda: read_lengths(self.manifest, place))
        found = dict(self._drawable(lengths.of(number)))
        if not found:
            return 0
        key, text = choose_text(drawn, {key: len(of) for key, of in found.items()}, self.keys)
        return found[key][text]

    def _drawable(self, found: SampleLengths) -> Iterator[tuple[str, list[int]]]:
        """Yield the lengths under each key that a text is drawn from, as `RawSample.drawable`."""
        for key in self.keys:
            # Any caption is drawn from the first of these that there is.
            names = (key,) if key else ("modification", "captions", "txt")
            of = next((found[name] for name in names if name in found), [])
            if self.templates and key == "labels":
                of = [length + len(one.encode()) - 2 for one in self.templates for length in of]
            if of:
                yield key, of


def measure_texts(manifest: Manifest, place: int) -> None:
    """Read the texts of a shard, by its place in the manifest, and write its `.lengths`."""
    reader = SampleReader(manifest)
    numbers = reader.numbers_of(place)
    rows: list[SampleLengths] = []
    for first in range(numbers.start, numbers.stop, _AT_ONCE):
        some = range(first, min(first + _AT_ONCE, numbers.stop))
        rows += [dict(_measured(one)) for one in reader.load(some, ("json", "txt"))]
    texts = {
        key: _OfKey(
            [len(row.get(key, ())) for row in rows],
            [length for row in rows for length in row.get(key, ())],
        )
        for key in dict.fromkeys(key for row in rows for key in row)
    }
    data = msgspec.json.encode(_File(manifest.index_digests[place], texts))
    manifest.storage.write(lengths_path(manifest.shards[place].url), data + b"\n")


def read_lengths(manifest: Manifest, place: int) -> ShardLengths:
    """Read the `.lengths` of a shard, by its place in the manifest.

    Raises `UserError` where it is missing, damaged, or of another tar.
    """
    shard = manifest.shards[place]
    path = lengths_path(shard.url)
    try:
        found = ShardLengths(msgspec.json.decode(manifest.storage.read(path), type=_File))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {_remedy(path)}") from None
    except (msgspec.MsgspecError, ValueError, OverflowError):
        raise UserError(f"{path} is damaged: {_remedy(path)}") from None
    if not found.fits(
        manifest.index_digests[place], shard.kept.total if shard.kept else shard.num_samples
    ):
        raise UserError(f"{path} is of another tar: {_remedy(path)}")
    return found


def check_lengths(manifest: Manifest) -> None:
    """Raise `UserError` where a shard has no `.lengths`."""
    folders = dict.fromkeys(split_url(shard.url)[0] for shard in manifest.shards)
    there = {f"{one}/{name}" for one in folders for name in manifest.storage.list(one)}
    for path in (lengths_path(shard.url) for shard in manifest.shards):
        if path not in there:
            raise UserError(
                f"data.length_buckets needs the lengths of texts, and {path} is missing: "
                f"{_remedy(path)}"
            )


def lengths_path(tar: str) -> str:
    """Return the path of the lengths of a tar's texts: `a/b.lengths` for `a/b.tar`."""
    return tar.removesuffix(".tar") + ".lengths"


def _measured(sample: RawSample) -> Iterator[tuple[str, list[int]]]:
    for key in ("txt", *_keys(sample)):
        try:
            texts = sample.texts(key).kept
        except BadSample:
            continue  # nothing is drawn from it
        if texts:
            yield key, [len(text.encode()) for text in texts]


def _keys(sample: RawSample) -> list[str]:
    """Return the keys of a sample's JSON that may hold texts."""
    try:
        record = sample.record
    except BadSample:
        return []
    return [key for key, value in record.items() if isinstance(value, str | list) and key != "txt"]


def _remedy(url: str) -> str:
    return f"run `python -m shards lengths {split_url(url)[0]}`"
