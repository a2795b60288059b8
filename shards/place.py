"""Where shards lie, as the commands are told: a folder of this machine or of a bucket."""

from functools import lru_cache

from xmodal.data.storage import Storage, is_remote, open_storage
from xmodal.errors import UserError


def storage_of(url: str) -> Storage:
    """Open the storage of a URL; what is remote is connected to once a process."""
    return _remote(url.partition("://")[0] + "://") if is_remote(url) else open_storage(url)


@lru_cache
def _remote(scheme: str) -> Storage:
    return open_storage(scheme)


def name_of(url: str) -> str:
    """Return the last part of a URL."""
    return url.rpartition("/")[2]


def find_tars(folder: str) -> list[str]:
    """The URLs of the tars in a folder, by name; raises `UserError` when there are none."""
    storage = storage_of(folder)
    tars = _tars(folder, storage)
    if not tars:
        folders = [f"{folder}/{name}" for name in storage.folders(folder)]
        if not folders and not storage.list(folder):
            raise UserError(f"there is no folder {folder} with shards")
        below = [each for each in folders if _tars(each, storage)]
        hint = f": is one of these meant? {' '.join(below[:8])}" if below else ""
        raise UserError(f"{folder} has no .tar{hint}")
    return tars


def _tars(folder: str, storage: Storage) -> list[str]:
    return [f"{folder}/{name}" for name in sorted(storage.list(folder)) if name.endswith(".tar")]
