"""Building of an index folder from embeddings: whole, or not there."""

import shutil
from collections.abc import Callable
from pathlib import Path

from xmodal.activity import activity
from xmodal.atomic_files import write_atomically
from xmodal.data.storage import is_remote
from xmodal.errors import UserError
from xmodal.search.consolidated import consolidate
from xmodal.search.embeddings import Embeddings
from xmodal.search.index_folder import (
    INFO,
    SIDES,
    IndexedSide,
    IndexInfo,
    Kind,
    SideInfo,
    read_index_info,
)

EXACT_VECTORS = 200_000  # up to so many, exact search takes a few hundredths of a second


def build_index(
    embeddings: Embeddings,
    target: Path,
    kind: Kind | None,
    memory: int,
    say: Callable[[str], None],
) -> None:
    """Build the index of embeddings as the folder `target`, with at most `memory` bytes resident.

    Without a kind, exact search where the vectors are few, else `ivf`. Raises `UserError` where the
    folder holds anything else; a finished index of the same embeddings is reported and stays.
    """
    info = describe(embeddings, kind, memory)
    if is_there(target, info):
        say(f"{target} is an index of {embeddings.url} already")
        return
    part = _empty_part(target)
    try:
        for side in [side for side in SIDES if side in embeddings.info.sides]:
            with activity(f"indexing {side}"):
                info.sides[side] = _build_side(embeddings, side, part, info, say)
        write_atomically(part / INFO, info.model_dump_json(indent=1))
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def describe(embeddings: Embeddings, kind: Kind | None, memory: int) -> IndexInfo:
    """Return the description of the index to build, without its sides."""
    info = embeddings.info
    sides: list[IndexedSide] = [side for side in SIDES if side in info.sides]
    if not any(embeddings.num_rows(side) for side in sides):
        raise UserError(f"{embeddings.url} has no images or texts to search")
    vectors = max(embeddings.num_rows(side) for side in sides) * info.embeddings_per_item
    return IndexInfo(
        kind=kind or ("exact" if vectors <= EXACT_VECTORS else "ivf"),
        memory=memory,
        embeddings=embeddings.url
        if is_remote(embeddings.url)
        else str(Path(embeddings.url).resolve()),
        model=info.model,
        data=info.data,
        dim=info.dim,
        embeddings_per_item=info.embeddings_per_item,
        dtype=info.dtype,
        sides={},
    )


def _absolute(url: str) -> str:
    return url if is_remote(url) else str(Path(url).resolve())


def is_there(target: Path, wanted: IndexInfo) -> bool:
    """Return whether a folder is the wanted index; raises `UserError` where it is anything else."""
    if not target.exists() and not target.is_symlink():
        return False
    found = read_index_info(target)
    if found is not None and found.model_copy(update={"sides": {}}) == wanted:
        return True
    what = "is no index" if found is None else "is an index of other embeddings or settings"
    raise UserError(f"--to {target} exists and {what}; name another folder, or remove it")


def _empty_part(target: Path) -> Path:
    """Return the folder in which an index is built; what an ended build left there is removed."""
    part = target.with_name(target.name + ".part")
    ours = {f"{side}.{kind}" for side in SIDES for kind in ("npy", "arrow", "faiss", "lists")}
    if part.is_dir() and {one.name for one in part.iterdir()} <= ours | {INFO, "blocks"}:
        shutil.rmtree(part)
    try:
        part.mkdir(parents=True)
    except FileExistsError:
        raise UserError(f"{part} is in the way; remove it") from None
    return part


def _build_side(
    embeddings: Embeddings,
    side: IndexedSide,
    folder: Path,
    info: IndexInfo,
    say: Callable[[str], None],
) -> SideInfo:
    found = consolidate(embeddings, side, folder)
    each = f" × {info.embeddings_per_item}" if info.embeddings_per_item > 1 else ""
    say(f"{side}: {found.rows:,} rows{each} of {info.dim} numbers")
    return found
