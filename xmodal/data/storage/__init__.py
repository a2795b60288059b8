"""Storage of shards: local folders and buckets behind one interface."""

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
    """Reads and writes files and parts of them. Safe in threads and after a fork.

    Every operation except `list` raises `FileNotFoundError` for missing files, and `UserError` for
    files that cannot be reached or accessed. `say` is called with a line for every retry.
    """

    say: Callable[[str], None]
    far: bool  # whether a read takes so long that the next ones had better be under way

    def list(self, folder: str) -> dict[str, int]:
        """Return the names of the files directly in a folder, with their sizes in bytes; none if
        there is no such folder.
        """

    def folders(self, folder: str) -> Sequence[str]:
        """Return the names of the folders directly in a folder."""

    def identity(self, url: str) -> str:
        """Return a string that changes with the content of the file."""

    def read(self, url: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return the bytes from `start` up to `stop`, fewer at the end of the file."""

    def will_read(self, url: str, start: int, stop: int) -> None:
        """Announce that a part of a file is read soon; remote files are read in threads instead."""

    def open(self, url: str) -> BinaryIO:
        """Open a file for sequential reading, as scanning a tar does."""

    def create(self, url: str) -> AbstractContextManager[BinaryIO]:
        """Open a file for atomic writing: it appears under its name when the block ends, and not
        at all if the block raises.
        """

    def write(self, url: str, data: bytes) -> None:
        """Write a small file atomically."""

    def remove(self, url: str) -> None:
        """Remove a file."""


def is_remote(url: str) -> bool:
    """Return True for the URL of a bucket."""
    return "://" in url


def split_url(url: str) -> tuple[str, str]:
    """Split the URL of a file into its folder and its name."""
    folder, slash, name = url.rpartition("/")
    return (folder or slash or "."), name


def open_storage(
    url: str, access: Iterable[StorageConfig] = (), cache: CacheConfig | None = None
) -> Storage:
    """Return the storage of a URL, configured by the entry of `access` for its scheme.

    Raises `UserError` for an unregistered scheme, or if its library is missing.
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
    """Return the registered scheme of a URL; raises `UserError` for any other."""
    scheme, kinds = url.partition("://")[0], StorageConfig.kinds
    if not StorageConfig.is_known(scheme):
        known = ", ".join(f"{kind}://" for kind in sorted(kinds))
        raise UserError(f"{url}: {scheme}:// is not supported; shards lie in folders or in {known}")
    return cast(type[StorageConfig], kinds[scheme])
