"""Building of an index folder from embeddings: whole, or not there."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from xmodal.activity import activity
from xmodal.atomic_files import write_atomically
from xmodal.data.storage import is_remote
from xmodal.errors import UserError
from xmodal.runs.lock import acquire_run_lock
from xmodal.runs.run import LOCK
from xmodal.search.approximate import DEPTH, SPARE, name_of_effort
from xmodal.search.consolidated import consolidate
from xmodal.search.embeddings import Embeddings
from xmodal.search.hnsw import FACTORY as HNSW
from xmodal.search.hnsw import HIGHEST, build_hnsw, check_memory
from xmodal.search.index_folder import (
    INFO,
    SIDES,
    IndexedSide,
    IndexFolder,
    IndexInfo,
    Kind,
    read_index_info,
)
from xmodal.search.ivf import build_ivf, plan_ivf
from xmodal.search.recall import least_effort
from xmodal.search.vector_file import VectorFile

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
    part = target.with_name(target.name + ".part")
    with _locked(part):
        for side in indexed_sides(embeddings):
            info.sides[side] = consolidate(embeddings, side, part)
        for side in info.sides:
            with activity(f"indexing {side}"):
                _approximate(IndexFolder(part, info), side)
        for line in _report(part, info):
            say(line)
        write_atomically(part / INFO, info.model_dump_json(indent=1))
        (part / LOCK).unlink()
        part.rename(target)


def describe(embeddings: Embeddings, kind: Kind | None, memory: int) -> IndexInfo:
    """Return the description of the index to build, without its sides."""
    info, sides = embeddings.info, indexed_sides(embeddings)
    if not any(embeddings.num_rows(side) for side in sides):
        raise UserError(f"{embeddings.url} has no images or texts to search")
    vectors = max(embeddings.num_rows(side) for side in sides) * info.embeddings_per_item
    if kind == "hnsw":
        check_memory(vectors, info.dim, memory)
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


def indexed_sides(embeddings: Embeddings) -> list[IndexedSide]:
    """Return the sides of embeddings that are indexed."""
    return [side for side in SIDES if side in embeddings.info.sides]


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


@contextmanager
def _locked(part: Path) -> Iterator[None]:
    """Lock the folder in which an index is built; remove what is in it before, and all of it at the
    end.
    """
    ours = {f"{side}.{kind}" for side in SIDES for kind in ("npy", "arrow", "faiss", "lists")}
    ours |= {INFO, LOCK, "blocks"}
    if part.exists() and not (part.is_dir() and {one.name for one in part.iterdir()} <= ours):
        raise UserError(f"{part} is in the way; remove it")
    with acquire_run_lock(part, str(part)):
        try:
            for one in [one for one in part.iterdir() if one.name != LOCK]:
                shutil.rmtree(one) if one.is_dir() else one.unlink()
            yield
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _approximate(index: IndexFolder, name: IndexedSide) -> None:
    """Build the approximate index of a side, where it is to have one."""
    info, side = index.info, index.side(name)
    file, memory = VectorFile(side.vector_path), info.memory
    if info.kind == "exact" or len(side) < 2:
        return
    if info.kind == "hnsw":
        build_hnsw(file, index.path, name)
        lowest = DEPTH * SPARE * info.embeddings_per_item  # faiss' queue holds all candidates
        factory, highest = HNSW, HIGHEST
    else:
        plan = plan_ivf(len(file), info.dim, memory)
        if plan is None:
            return
        build_ivf(file, plan, index.path, name, memory)
        factory, lowest, highest = plan.factory, 1, plan.lists
    others = [index.side(other) for other in info.sides if other != name]
    info.sides[name].approximation = least_effort(side, factory, others, lowest, highest)


def _report(folder: Path, info: IndexInfo) -> Iterator[str]:
    """Yield lines about what was built."""
    each = f" × {info.embeddings_per_item}" if info.embeddings_per_item > 1 else ""
    for name, side in info.sides.items():
        line, found = f"{name}: {side.rows:,} rows{each} of {info.dim} numbers", side.approximation
        if found is None:
            yield f"{line}, exact search"
            continue
        recalls = ", ".join(f"{value:.3f} of {one}" for one, value in found.recall.items())
        effort = f"{name_of_effort(found.factory)} {found.effort}"
        yield f"{line}, {found.factory} with {effort}"
        yield f"{name}: recall@10 against exact search {recalls} ({found.queries} queries each)"
    mapped = sum(one.stat().st_size for one in folder.iterdir() if one.suffix != ".faiss")
    loaded = sum(one.stat().st_size for one in folder.glob("*.faiss"))
    yield f"loading takes {_size(loaded)} of memory; {_size(mapped)} are memory-mapped"


def _size(count: int) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.2f} MB"
