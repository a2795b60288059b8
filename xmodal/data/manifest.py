"""Manifest of a shard set: its samples, and the place of each file in the tars.

A shard set is a folder of tars, on disk or in a bucket, with two kinds of index, both in formats
other tools read too: `shardindex.json` as webdataset's `wids` writes it (each shard's name, number
of samples and bytes), and beside each tar an `.idx` as NVIDIA DALI's `wds2idx` writes it (offset
and size of each file). A tar is scanned once, when its index is made; afterwards any sample is one
seek away.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from xmodal.data.braces import expand_braces
from xmodal.data.decode import BadSample
from xmodal.data.digests import NO_DIGESTS, Digests, digest_of
from xmodal.data.fields import relevance_of
from xmodal.data.kept import Kept
from xmodal.data.no_shards import why_no_folder, without_tars
from xmodal.data.occurrences import epoch_size
from xmodal.data.shard_index import ShardIndex, how_to_index, index_path, read_index
from xmodal.data.storage import Storage, open_storage, split_url
from xmodal.data.storage.config import CacheConfig, StorageConfig
from xmodal.data.tar import BrokenShard, Sample, grouped, scan_tar
from xmodal.errors import UserError

MANIFEST_NAME = "shardindex.json"
RELEVANCE_NAME = "relevance.json"
# Bytes of either JSON of a folder, which take up to twenty times as much when they are parsed.
_MOST_BYTES = 2**29


@dataclass(frozen=True)
class Shard:
    """One tar of a shard set: its URL, number of samples, and size in bytes.

    `indexed_bytes` is its size when it was indexed. With `kept`, its samples are those that a
    keep-list names.
    """

    url: str
    num_samples: int
    num_bytes: int
    indexed_bytes: int
    digests: Digests = NO_DIGESTS
    kept: Kept | None = None

    @property
    def name(self) -> str:
        return split_url(self.url)[1]

    @property
    def lost(self) -> float:
        """Estimate of the number of samples beyond the end of a truncated tar."""
        return self.num_samples * (1 - self.num_bytes / max(self.indexed_bytes, 1))


@dataclass(frozen=True)
class Manifest:
    """A shard set: its shards in order, and the relevance of its captions.

    `relevance` maps an image id to one list of image ids for each of its captions: the relevant
    images, the image itself included. None if the set has no relevance file. `unknown` is a line
    about samples that a keep-list names and the set does not have.
    """

    url: str
    shards: tuple[Shard, ...]
    relevance: dict[str, list[list[str]]] | None = None
    unknown: str | None = None
    storage: Storage = field(default_factory=lambda: open_storage(""), compare=False, repr=False)

    @property
    def num_samples(self) -> int:
        return sum(shard.num_samples for shard in self.shards)

    @property
    def sample_weights(self) -> list[np.ndarray] | None:
        """Expected occurrences of each shard's samples in an epoch; None: each comes once."""
        kept = [
            one.kept.weights for one in self.shards if one.kept and one.kept.weights is not None
        ]
        return kept or None

    @cached_property
    def epoch_samples(self) -> int:
        """Number of samples of an epoch, those that come again included."""
        weights = self.sample_weights
        return self.num_samples if weights is None else epoch_size(weights)

    @property
    def truncated(self) -> list[str]:
        """A line for each truncated shard, which training can tolerate."""
        return [
            f"shard {one.url} is truncated: {one.num_bytes:,} of {one.indexed_bytes:,} bytes; its "
            "samples beyond them count as bad"
            for one in self.shards
            if one.num_bytes < one.indexed_bytes
        ]

    @property
    def warnings(self) -> list[str]:
        return [*self.truncated, *([self.unknown] if self.unknown else [])]

    @property
    def lost(self) -> int:
        """Estimate of the number of samples beyond the end of truncated shards."""
        return round(sum(one.lost for one in self.shards))

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the data: `sha256-` and 16 hexadecimal digits.

        It depends on the shards in their order: name, number of samples, size and digests, on what
        a keep-list keeps of them, and not on their folder.
        """
        lines = [
            f"{one.name} {one.num_samples} {one.indexed_bytes} {one.digests.headers} "
            f"{one.digests.sha256} {index}{f' {one.kept.digest}' if one.kept else ''}\n"
            for one, index in zip(self.shards, self.index_digests, strict=True)
        ]
        digest = hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape"))
        return f"sha256-{digest.hexdigest()[:16]}"

    @cached_property
    def index_digests(self) -> tuple[str, ...]:
        """Digest of each shard's index, from the manifest or computed."""

        def digest(shard: Shard) -> str:
            return shard.digests.index or digest_of(self.storage.read(index_path(shard.url)))

        with ThreadPoolExecutor(16) as pool:
            return tuple(pool.map(digest, self.shards))

    def index(self, shard: Shard) -> ShardIndex:
        """Read the index of a shard, of the samples that are kept of it.

        Raises `UserError` when it is damaged or counts other samples than the manifest.
        """
        index = self._whole_index(shard)
        return index.only(shard.kept.numbers.tolist()) if shard.kept else index

    def _whole_index(self, shard: Shard) -> ShardIndex:
        index = read_index(shard.url, self.storage, shard.indexed_bytes)
        self.check_count(shard, len(index))
        return index

    def check_count(self, shard: Shard, count: int) -> None:
        """Raise `UserError` unless the index of a shard has as many samples as the manifest."""
        total = shard.kept.total if shard.kept else shard.num_samples
        if count != total:
            raise UserError(
                f"{index_path(shard.url)} has {count} samples, {MANIFEST_NAME} says "
                f"{total}: {how_to_index(split_url(shard.url)[0])}"
            )

    def holds_index(self, shard: Shard) -> bool:
        """Scan a tar and compare its samples with its index; return True if the tar is complete.

        Raises `UserError` if it has other samples: it is not the tar that was indexed.
        """
        index, found, whole = self._whole_index(shard), list[Sample](), True
        with scan_tar(shard.url, self.storage) as scan:
            try:
                found.extend(sample for sample, _ in grouped(scan))
            except BrokenShard:
                whole = False
        if scan.last is None or found != index[: None if whole else len(found)]:
            raise UserError(
                f"shard {shard.url} has changed since it was indexed: "
                f"{how_to_index(split_url(shard.url)[0])}"
            )
        return whole


def read_manifest(
    url: str | Path, access: Iterable[StorageConfig] = (), cache: CacheConfig | None = None
) -> Manifest:
    """Read the manifest of a URL, and check that all its shards exist.

    The URL is a folder, a `shardindex.json`, a tar, or any of these with braces
    (`s3://bucket/train-{000000..000099}.tar`); the folder of each has a manifest. Raises
    `UserError` when the folder, its manifest, a shard or its index is missing, a shard has grown,
    is empty, or there is none.
    """
    url = str(url)
    storage = open_storage(url, access, cache)
    folders: dict[str, _Folder] = {}
    shards: list[Shard] = []
    for part in expand_braces(url):
        place, name = split_url(part) if part.endswith((".tar", MANIFEST_NAME)) else (part, None)
        place = place.rstrip("/") or place
        if place not in folders:
            folders[place] = _Folder(place, storage)
        shards += folders[place].shards(None if name == MANIFEST_NAME else name)
    return Manifest(url, tuple(shards), _relevance(folders.values()), storage=storage)


def write_manifest(
    folder: str | Path,
    num_samples: Mapping[str, int],
    storage: Storage | None = None,
    digests: Mapping[str, Digests] | None = None,
) -> None:
    """Write a folder's `shardindex.json`: names of tars in order, their numbers of samples, and
    the known digests.
    """
    storage = storage or open_storage(str(folder))
    sizes, digests = storage.list(str(folder)), digests or {}
    shards = [
        {"url": name, "nsamples": count, "filesize": sizes[name]}
        | {key: value for key, value in asdict(digests.get(name, NO_DIGESTS)).items() if value}
        for name, count in num_samples.items()
    ]
    document = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": shards}
    text = json.dumps(document, indent=1) + "\n"
    storage.write(f"{folder}/{MANIFEST_NAME}", text.encode())


class _Folder:
    """A folder of shards, listed once."""

    def __init__(self, folder: str, storage: Storage) -> None:
        self.folder, self.storage = folder, storage
        self._sizes = {folder: storage.list(folder)}
        if MANIFEST_NAME not in self._sizes[folder]:
            if not (self._sizes[folder] or storage.folders(folder)):
                raise UserError(why_no_folder(folder))
            if not any(name.endswith(".tar") for name in self._sizes[folder]):
                raise UserError(without_tars(folder, storage))
            raise UserError(f"{folder} has no {MANIFEST_NAME}: {how_to_index(folder)}")
        for name in (MANIFEST_NAME, RELEVANCE_NAME):
            if self._sizes[folder].get(name, 0) > _MOST_BYTES:
                raise UserError(f"{folder}/{name} is over {_MOST_BYTES:,} bytes")
        self._entries = _shard_entries(f"{folder}/{MANIFEST_NAME}", storage)

    def shards(self, name: str | None) -> list[Shard]:
        """Return the shard of that name, or all; raises `UserError` if it is missing."""
        entries = [entry for entry in self._entries if name in (None, entry["url"])]
        if not entries:
            place = f"{self.folder}/{MANIFEST_NAME}"
            raise UserError(
                f"{place} lists no shards"
                if name is None
                else f"{place} does not list {name}: {how_to_index(self.folder)}"
            )
        return [self._shard(entry) for entry in entries]

    def relevance(self) -> dict[str, list[list[str]]] | None:
        """Read the relevance file of the folder, if there is one."""
        if RELEVANCE_NAME not in self._sizes[self.folder]:
            return None
        path = f"{self.folder}/{RELEVANCE_NAME}"
        try:
            return relevance_of(json.loads(self.storage.read(path)))
        except (ValueError, RecursionError):
            cause = "it is no JSON"
        except BadSample as error:
            cause = str(error)
        raise UserError(f"{path} cannot be used ({cause}): remove it, or build the shards again")

    def _shard(self, entry: dict) -> Shard:
        name = entry["url"]
        url = name if name.startswith("/") or "://" in name else f"{self.folder}/{name}"
        size, recorded = self._size(url), entry.get("filesize")
        if size is None:
            raise UserError(f"shard {url} is missing, but {MANIFEST_NAME} lists it")
        if recorded is not None and size > recorded:
            raise UserError(
                f"shard {url} has {size:,} bytes, {MANIFEST_NAME} says {recorded:,}: "
                f"changed? If it is right, {how_to_index(self.folder)}"
            )
        if entry["nsamples"] == 0:
            raise UserError(f"shard {url} is empty: remove it and {how_to_index(self.folder)}")
        index, index_bytes = index_path(url), self._size(index_path(url))
        if index_bytes is None:
            raise UserError(
                f"shard {url} has no {split_url(index)[1]}: {how_to_index(self.folder)}"
            )
        # A file takes a block of its tar at least, and a long name in it as much as in the index.
        if index_bytes > 2 * max(size, recorded or 0):
            raise UserError(f"{index} is larger than its tar: {how_to_index(self.folder)}")
        digests = Digests(entry.get("index"), entry.get("headers"), entry.get("sha256"))
        return Shard(url, entry["nsamples"], size, size if recorded is None else recorded, digests)

    def _size(self, url: str) -> int | None:
        folder, name = split_url(url)
        if folder not in self._sizes:
            self._sizes[folder] = self.storage.list(folder)
        return self._sizes[folder].get(name)


def _relevance(folders: Iterable[_Folder]) -> dict[str, list[list[str]]] | None:
    found = [folder.relevance() for folder in folders]
    if any(each is None for each in found):
        return None
    return {key: value for each in found if each for key, value in each.items()}


def _shard_entries(path: str, storage: Storage) -> list[dict]:
    try:
        entries = json.loads(storage.read(path))["shardlist"]
        for entry in entries:
            _check_entry(entry)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise UserError(f"{path} is no shard index: {how_to_index(split_url(path)[0])}") from None
    return entries


def _check_entry(entry: dict) -> None:
    """Raise `ValueError` where an entry of a manifest is none; its numbers become integers."""
    entry["url"], entry["nsamples"] = str(entry["url"]), int(entry["nsamples"])
    size = entry.get("filesize")
    if size is not None:
        entry["filesize"] = size = int(size)
    if entry["nsamples"] < 0 or (size is not None and 512 * entry["nsamples"] > size):
        raise ValueError(entry)
    if not all(isinstance(entry.get(name, ""), str) for name in ("index", "headers", "sha256")):
        raise ValueError(entry)
