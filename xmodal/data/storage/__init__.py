"""Where shards lie: a folder of this machine or of a bucket, behind the same few operations."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import BinaryIO, Protocol, cast

from xmodal.components.declared import declare
from xmodal.components.validation import validate
from xmodal.data.storage.config import CacheConfig, StorageConfig
from xmodal.data.storage.local import LocalStorage
from xmodal.errors import UserError

declare(__name__)


class Storage(Protocol):
    """Reads and writes whole files and parts of them. Safe to use in threads and after a fork.

    Every operation but `list` raises `FileNotFoundError` for what is not there, and `UserError`
    for what cannot be reached or may not be. `say` is given a line for what is tried again.
    """

    say: Callable[[str], None]
    far: bool  # whether a read takes so long that the next ones had better be under way

    def list(self, folder: str) -> dict[str, int]:
        """Return the names of the files right in a folder, with their sizes in bytes; none where
        there is no such folder.
        """

    def folders(self, folder: str) -> Sequence[str]:
        """Return the names of the folders right in a folder."""

    def identity(self, url: str) -> str:
        """Return a string that is another one when the file has other bytes."""

    def read(self, url: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return the bytes from `start` up to `stop`, fewer where the file ends before."""

    def will_read(self, url: str, start: int, stop: int) -> None:
        """Say that a part of a file is read soon; what is far is read in threads instead."""

    def open(self, url: str) -> BinaryIO:
        """Open a file to read it from its beginning to its end, as scanning a tar does."""

    def create(self, url: str) -> AbstractContextManager[BinaryIO]:
        """Open a file to write: under its name it stands when the block ends, whole, and never
        when the block ends by an error.
        """

    def write(self, url: str, data: bytes) -> None:
        """Write a small file, whole or not at all."""

    def remove(self, url: str) -> None:
        """Remove a file."""


def is_remote(url: str) -> bool:
    """Tell whether a URL is one of a bucket."""
    return "://" in url


def split_url(url: str) -> tuple[str, str]:
    """Split the URL of a file into its folder and its name."""
    folder, slash, name = url.rpartition("/")
    return (folder or slash or "."), name


def open_storage(
    url: str, access: Iterable[StorageConfig] = (), cache: CacheConfig | None = None
) -> Storage:
    """Return the storage that a URL lies in, reached as `access` says of its scheme.

    Raises `UserError` for a scheme that nobody has registered, or whose library is missing.
    """
    if not is_remote(url):
        return LocalStorage()
    found = scheme_of(url)
    given = next((one for one in access if isinstance(one, found)), None)
    storage: Storage = (given or validate(found, {}, f"{url}: data.storage")).build()
    if cache is None:
        return storage
    from xmodal.data.storage.cache import CachedStorage

    return CachedStorage(storage, cache.folder, int(cache.gigabytes * 1e9))


def scheme_of(url: str) -> type[StorageConfig]:
    """Return the registered scheme of a URL; raises `UserError` where there is none."""
    scheme, kinds = url.partition("://")[0], StorageConfig.kinds
    if not StorageConfig.is_known(scheme):
        known = ", ".join(f"{kind}://" for kind in sorted(kinds))
        raise UserError(f"{url}: {scheme}:// is not supported; shards lie in folders or in {known}")
    return cast(type[StorageConfig], kinds[scheme])
