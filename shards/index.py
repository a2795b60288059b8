"""Make the index of shards that other tools wrote."""

from pathlib import Path

from shards.parallel import progress, run_parallel
from xmodal.data.manifest import write_index, write_manifest
from xmodal.errors import UserError


def index(folder: Path, workers: int) -> None:
    """Write the `.idx` of every tar in the folder and their `shardindex.json`.

    Raises `UserError` when there is no tar, or one is cut, broken or empty.
    """
    tars = find_tars(folder)
    counts = {}
    with progress("index", len(tars)) as advance:
        for tar, count in run_parallel(write_index, tars, min(workers, len(tars))):
            if count == 0:
                raise UserError(f"shard {tar} has no samples: remove it and index again")
            counts[tar.name] = count
            advance(1)
    write_manifest(folder, {tar.name: counts[tar.name] for tar in tars})
    print(f"{sum(counts.values()):,} samples in {len(tars):,} shards of {folder}")


def find_tars(folder: Path) -> list[Path]:
    """The tars in a folder, by name; raises `UserError` when there are none."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        below = sorted({str(tar.parent) for tar in folder.glob("*/*.tar")})
        hint = f": is one of these meant? {' '.join(below[:8])}" if below else ""
        raise UserError(f"{folder} has no .tar{hint}")
    return tars
