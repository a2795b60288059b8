"""Plan of a build, kept as `build.json` beside the shards.

A folder with another plan is refused once shards were written by it. If none were written, as when
a build failed at its first shard, the plan is replaced.
"""

import fcntl
import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shards.place import storage_of
from shards.skipped import SUFFIXES as SKIPPED_SUFFIXES
from shards.source import Split
from xmodal.data.manifest import MANIFEST_NAME
from xmodal.data.storage import is_remote
from xmodal.errors import UserError

PLAN_NAME = "build.json"


@dataclass(frozen=True)
class Plan:
    """Plan of a build: source, split and options, as recorded in the folder."""

    source: str
    read_from: str | None
    split: str
    options: dict[str, Any]
    resize: int | None
    samples_per_shard: int


def refuse_other_build(folder: str, plan: Plan) -> None:
    """Raise `UserError` if a folder holds shards of another plan, or of no build."""
    names = storage_of(folder).list(folder)
    written = sorted(name for name in names if name.endswith(".tar") or name == MANIFEST_NAME)
    if PLAN_NAME not in names:
        if written:
            raise UserError(f"{folder}/{written[0]} is not from a build: use another folder")
        return
    difference = _difference(_read(folder), plan) if written or is_remote(folder) else ""
    if difference:
        raise UserError(
            f"{folder} was built with {difference}: use another folder, or remove this one"
        )


def newer_options(folder: str, plan: Plan) -> list[str]:
    """Return the options of the source that are newer than the folder.

    Their effect on the samples is compared when these are read.
    """
    if PLAN_NAME not in storage_of(folder).list(folder):
        return []
    return sorted(set(plan.options) - set(_read(folder).get("options", ())))


def begin(folder: str, plan: Plan, split: Split) -> None:
    """Write the plan, or check that the existing one is equal and of the same samples."""
    digest, storage = _digest(split), storage_of(folder)
    names = storage.list(folder)
    text = json.dumps(asdict(plan) | {"digest": digest}, indent=1)
    if PLAN_NAME in names:
        begun = _read(folder)
        if begun.get("digest") == digest and not _difference(begun, plan):
            return
        if is_remote(folder) or any(name.endswith(".tar") for name in names):
            raise UserError(_other_samples(folder, plan))
    with _replaced(folder) if PLAN_NAME in names else nullcontext():
        for name in names:
            if name.endswith(SKIPPED_SUFFIXES):  # of a build that wrote nothing else
                with suppress(FileNotFoundError):
                    storage.remove(f"{folder}/{name}")
        storage.write(f"{folder}/{PLAN_NAME}", f"{text}\n".encode())


def forget(folder: str) -> None:
    """Remove the plan of a failed build that has written nothing.

    The lists of skipped samples stay.
    """
    storage = storage_of(folder)
    names = storage.list(folder)
    if not any(name.endswith(".tar") or name == MANIFEST_NAME for name in names):
        with suppress(FileNotFoundError):
            storage.remove(f"{folder}/{PLAN_NAME}")


def locked(folder: str, plan: Plan, *, shared: bool) -> AbstractContextManager[None]:
    """Lock a folder against other builds; the parts of one build share the lock."""
    # Two builds of the same into a bucket do twice the work, and write the same bytes.
    return nullcontext() if is_remote(folder) else _locked_on_disk(folder, plan, shared=shared)


@contextmanager
def _locked_on_disk(folder: str, plan: Plan, *, shared: bool) -> Iterator[None]:
    with (Path(folder) / PLAN_NAME).open("r+b") as file:
        _lock(file, folder, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        if _difference(_read(folder), plan):  # another build came first
            raise UserError(_being_written(folder))
        yield


@contextmanager
def _replaced(folder: str) -> Iterator[None]:
    """Hold the lock of a plan while it is replaced, so that no build uses it."""
    with (Path(folder) / PLAN_NAME).open("r+b") as file:
        _lock(file, folder, fcntl.LOCK_EX)
        yield


def _lock(file: Any, folder: str, kind: int) -> None:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(_being_written(folder)) from None


def _being_written(folder: str) -> str:
    return f"another build is writing {folder}: wait until it ends"


def _other_samples(folder: str, plan: Plan) -> str:
    newer = newer_options(folder, plan)
    since = (
        f" ({plan.source} has the options {', '.join(newer)} since then: "
        "see `python -m shards sources`)"
        if newer
        else ""
    )
    return (
        f"{folder} was started from other samples than {plan.read_from or plan.source} has now"
        f"{since}: use another folder, or remove this one"
    )


def _read(folder: str) -> dict[str, Any]:
    path = f"{folder}/{PLAN_NAME}"
    try:
        return dict(json.loads(storage_of(folder).read(path)))
    except (ValueError, TypeError):
        raise UserError(f"{path} is damaged: remove the folder") from None


def _difference(begun: dict[str, Any], plan: Plan) -> str:
    """Name the first setting that was another one; options that a source got since are not."""
    options: Any = begun.get("options", {})
    settings: Iterable[tuple[str, Any, Any]] = [
        (name, begun.get(name), value) for name, value in asdict(plan).items() if name != "options"
    ]
    chosen = [
        (name, options[name], value) for name, value in plan.options.items() if name in options
    ]
    for name, was, value in (*settings, *chosen):
        if was != value:
            return f"{name} {was}, not {value}"
    return ""


def _digest(split: Split) -> str:
    digest = hashlib.sha256()
    for item in split.items:
        digest.update(json.dumps(item.record).encode())
        for array in item.features.values():
            digest.update(array.tobytes())
    return digest.hexdigest()
