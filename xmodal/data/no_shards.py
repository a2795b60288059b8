"""Reasons why a folder is no folder of shards."""

from pathlib import Path

from xmodal.data.shard_index import how_to_index
from xmodal.data.storage import Storage, is_remote, open_storage, split_url
from xmodal.errors import UserError

_COMPRESSED = (".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip")


def check_folder(url: str) -> None:
    """Raise `UserError` for a folder of shards that is not on the disk, or is empty; buckets are
    not asked.
    """
    if is_remote(url) or "{" in url or Path(url).is_file():
        return
    storage = open_storage(url)
    if not (storage.list(url) or storage.folders(url)):
        raise UserError(why_no_folder(url))


def why_no_folder(url: str) -> str:
    """Return an error message for a URL that is no folder with files."""
    if url.endswith(_COMPRESSED):
        return (
            f"{url} is compressed: unpack it to a plain .tar, and {how_to_index(split_url(url)[0])}"
        )
    if not is_remote(url) and Path(url).is_file():
        return f"{url} is a file: name the folder of its shards"
    return f"there is no folder {url} with shards"


def without_tars(folder: str, storage: Storage) -> str:
    """Return an error message for a folder without shards that names subfolders with shards."""
    below = [f"{folder}/{name}" for name in storage.folders(folder)]
    meant = [each for each in below if any(name.endswith(".tar") for name in storage.list(each))]
    hint = f": is one of these meant? {' '.join(meant[:8])}" if meant else ", nor a folder in it"
    return f"{folder} has no .tar{hint}"
