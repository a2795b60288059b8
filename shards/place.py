"""Folders of shards, local or in a bucket, as given to the commands."""

import re
from functools import lru_cache
from pathlib import Path

from xmodal.data.no_shards import without_tars
from xmodal.data.storage import Storage, is_remote, open_storage
from xmodal.errors import UserError

_COMPRESSED = re.compile(r"\.(tar\.\w+|tgz|tbz2?|txz|zip)$")


def storage_of(url: str) -> Storage:
    """Open the storage of a URL; remote ones are connected once per process."""
    return _remote(url.partition("://")[0] + "://") if is_remote(url) else open_storage(url)


@lru_cache
def _remote(scheme: str) -> Storage:
    return open_storage(scheme)


def check_folder(url: str, what: str = "the folder") -> str:
    """Return the URL without slashes at its end; raises `UserError` if it names no folder.

    The folder need not exist. `what` is the name of the argument.
    """
    folder = url.rstrip("/")
    if not url.strip():
        raise UserError(f"{what} is empty: name a folder, or s3://BUCKET/FOLDER")
    if "\0" in url:
        raise UserError(f"{what} {url!r} has a NUL in it")
    if is_remote(url):
        scheme, _, rest = url.partition("://")
        if not rest.strip("/"):
            raise UserError(f"{what} {url} names no bucket: write {scheme}://BUCKET/FOLDER")
        storage_of(url)  # raises for another scheme
        return folder
    if not folder or Path(url).resolve() == Path("/"):
        raise UserError(f"{what} {url} is the root of the file system: name a folder in it")
    try:
        there = next(place for place in (Path(folder), *Path(folder).parents) if _is_there(place))
        if not there.is_dir():
            raise UserError(f"{what} {url}: {there} is not a folder")
    except OSError as error:
        raise UserError(f"{what} {url}: {error.strerror}") from None
    return folder


def _is_there(place: Path) -> bool:
    return place.exists() or place.is_symlink()


def name_of(url: str) -> str:
    """Return the last part of a URL."""
    return url.rpartition("/")[2]


def find_tars(folder: str) -> list[str]:
    """Return the URLs of the tars in a folder, by name; raises `UserError` if there are none."""
    storage = storage_of(folder)
    tars = _tars(folder, storage)
    if not tars:
        if not storage.folders(folder) and not storage.list(folder):
            raise UserError(f"there is no folder {folder}, or it is empty")
        packed = [name for name in sorted(storage.list(folder)) if _COMPRESSED.search(name)]
        if packed:
            raise UserError(
                f"{folder} has no .tar, but {len(packed):,} compressed ones ({packed[0]}): unpack "
                "them to plain tars"
            )
        raise UserError(without_tars(folder, storage))
    return tars


def _tars(folder: str, storage: Storage) -> list[str]:
    return [f"{folder}/{name}" for name in sorted(storage.list(folder)) if name.endswith(".tar")]
