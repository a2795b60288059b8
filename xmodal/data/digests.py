"""Digests of shards and their indices, which find out that data have changed."""

import hashlib
from dataclasses import dataclass

from xmodal.data.storage import Storage


@dataclass(frozen=True)
class Digests:
    """Digests of a shard, as hexadecimal digits; None if not computed."""

    index: str | None = None  # of its .idx: names, places and sizes of the files
    headers: str | None = None  # of all headers in the tar: times and owners too
    sha256: str | None = None  # of all bytes of the tar


NO_DIGESTS = Digests()


def digest_of(data: bytes) -> str:
    """Return a digest of 128 bits, as hexadecimal digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def sha256_of(url: str, storage: Storage) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with storage.open(url) as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
