"""Build of missing shards that a recipe names."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from shards.build import build
from xmodal.data.manifest import MANIFEST_NAME
from xmodal.data.storage import is_remote, open_storage
from xmodal.errors import UserError


def build_missing(source: str, urls: Iterable[str], access: Sequence[Any]) -> None:
    """Build the splits of those folders `urls` that hold no shards, named by the folders.

    Raises `UserError` for folders in a bucket. A killed build is resumed; existing shards stay
    unchanged.
    """
    missing = [url for url in urls if MANIFEST_NAME not in open_storage(url, access).list(url)]
    for url in filter(is_remote, missing):
        raise UserError(
            f"{url} has no shards, and data.build writes to local disks only: run "
            f"`python -m shards build {source} --to {url.rpartition('/')[0]}`"
        )
    workers = min(8, len(os.sched_getaffinity(0)))
    for folder in map(Path, missing):
        build(source, folder.parent, splits=[folder.name], workers=workers)
