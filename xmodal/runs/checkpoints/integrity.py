"""Integrity of checkpoints, and recovery from damaged ones.

A checkpoint lists its files, their sizes and checksums in `files.json`. Each rank verifies its
share of the files.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from io import BufferedReader, BytesIO
from itertools import count
from pathlib import Path, PurePosixPath

from xmodal.atomic_files import write_atomically
from xmodal.distributed.collectives import barrier, gather_objects, rank, world_size
from xmodal.errors import UserError
from xmodal.runs.run import STATE_FILE, Run, state_fault
from xmodal.small_files import read_small

CONTENTS = "files.json"
UNREADABLE = f"{CONTENTS} cannot be read"
# A file of a checkpoint: its name, its size in bytes, its checksum.
File = tuple[str, int, str]
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}"  # no `..`, no drive, nothing hidden
_NAME = re.compile(rf"{_PART}(/{_PART}){{0,3}}")


def write_contents(folder: Path, files: Sequence[File]) -> int:
    """Write `files.json` of a checkpoint, and return the checkpoint's size in bytes.

    `files` are those that this rank has written; rank 0 reads the others.
    """
    files = gather_objects(files)
    known = {name for name, _, _ in files}
    others = set(_names(folder)) - known if rank() == 0 else set()
    files += gather_objects([(name, *_measured(folder / name)) for name in others])
    if rank() == 0:
        contents = {name: {"bytes": size, "blake2b": digest} for name, size, digest in files}
        write_atomically(folder / CONTENTS, json.dumps(contents, indent=1, sort_keys=True) + "\n")
    return sum(size for _, size, _ in files)


def verify_checkpoint(folder: Path) -> str | None:
    """Return the fault of a checkpoint, the same on all ranks; None if it is intact."""
    try:
        listed = read_contents(read_small(folder / CONTENTS).decode())
    except OSError:
        return f"{CONTENTS} is missing"
    except ValueError:
        return UNREADABLE
    mine = [
        fault
        for name in sorted(listed)[rank() :: world_size()]
        if (fault := _fault(folder / name, *listed[name]))
    ]
    return next(iter(gather_objects(mine)), None) or state_fault(folder)


def read_contents(text: str) -> dict[str, tuple[int, str]]:
    """Return the sizes and checksums of a checkpoint's files by their names.

    Raises `ValueError` for any other text, and for names of files outside of the checkpoint's
    folder: files that are fetched by this list are written under its names.
    """
    try:
        listed = {str(n): (file["bytes"], file["blake2b"]) for n, file in json.loads(text).items()}
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(text) from error
    right = all(type(size) is int and isinstance(digest, str) for size, digest in listed.values())
    if STATE_FILE not in listed or not right or not _are_names(listed):
        raise ValueError(text)
    return listed


def _are_names(names: Collection[str]) -> bool:
    """Return True if all are names of files below a folder, none a prefix of another."""
    folders = {str(folder) for name in names for folder in PurePosixPath(name).parents}
    return all(map(_NAME.fullmatch, names)) and folders.isdisjoint({*names, CONTENTS})


def digest_of(folder: Path) -> str:
    """Return the digest of a checkpoint, made of the checksums of its files."""
    return hashlib.blake2b(read_small(folder / CONTENTS), digest_size=8).hexdigest()


def checksum(data: BytesIO | BufferedReader) -> str:
    """Return the checksum of a file's content."""
    return hashlib.file_digest(data, "blake2b").hexdigest()


def check_whole_checkpoint(folder: Path) -> None:
    """Raise `UserError` if a checkpoint is damaged."""
    fault = verify_checkpoint(folder)
    if fault:
        raise UserError(
            f"checkpoint {folder} is broken ({fault}): name another one (step-N), or restore it"
        )


def recover(run: Run, fetch: Callable[[], list[str]] | None = None) -> list[str]:
    """Point `latest` at the newest intact checkpoint, and set newer damaged ones aside.

    Then `fetch` downloads a newer one, if there is one. Return lines for the log. Raises
    `UserError` if there are, or were, checkpoints and none is intact: such a run never restarts
    from the beginning by itself.
    """
    broken, newest = _broken(run)
    if broken and not newest and not fetch:
        raise UserError(_none_whole(run, broken))
    barrier()
    # Where none is left, `latest` still tells that there was one.
    latest = newest or next(iter(broken), None)
    if rank() == 0:
        if latest and run.latest() != latest:
            write_atomically(run.checkpoints / "latest", latest.name)
        _put_aside(broken)
    barrier()
    resumed = f": resuming from {newest.name}" if newest else ""
    said = [
        f"warning: checkpoint {one} is broken ({fault}){resumed}" for one, fault in broken.items()
    ]
    said += fetch() if fetch else []
    latest = run.latest()
    if broken and not (latest and latest.is_dir()):
        raise UserError(_none_whole(run, broken))
    return said


def _broken(run: Run) -> tuple[dict[Path, str], Path | None]:
    """Return the faults of checkpoints, newest first, up to an intact one, and that one."""
    latest = run.latest()
    broken: dict[Path, str] = {}
    if latest and not latest.is_dir():
        broken[latest] = "it is missing"
    for folder in run.finished():
        fault = verify_checkpoint(folder)
        if fault is None:
            return broken, folder
        broken[folder] = fault
    return broken, None


def _none_whole(run: Run, broken: Mapping[Path, str]) -> str:
    faults = "; ".join(f"{folder.name}: {fault}" for folder, fault in broken.items())
    return (
        f"no checkpoint in {run.checkpoints} is whole ({faults}): restore one, or train in "
        "another run=DIR"
    )


def _put_aside(broken: Iterable[Path]) -> None:
    """Rename damaged checkpoints, so that nothing overwrites them."""
    for folder in filter(Path.is_dir, broken):
        names = (f"{folder.name}.broken{number or ''}" for number in count())
        folder.rename(next(p for p in map(folder.with_name, names) if not p.exists()))


def _names(folder: Path) -> list[str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(str(path.relative_to(folder)) for path in files)


def _measured(file: Path) -> tuple[int, str]:
    with file.open("rb") as data:
        return file.stat().st_size, checksum(data)


def _fault(file: Path, size: int, digest: str) -> str | None:
    if not file.is_file():
        return f"{file.name} is missing"
    held = file.stat().st_size
    if held != size:
        return f"{file.name} has {held:,} bytes of {size:,}"
    return None if _measured(file)[1] == digest else f"{file.name} is not what was written"
