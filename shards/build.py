"""Build of shards from a data set: parallel, reproducible, resumed after a kill.

A split's folder records the progress of its build. `build.json` is the plan; a tar gets its name
when it is complete and its `.idx` is there; `shardindex.json` is written last. Running the same
command again therefore writes the missing files only.
"""

import json
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from shards.parallel import progress, run_parallel
from shards.place import check_folder, name_of, storage_of
from shards.plan import PLAN_NAME, Plan, begin, forget, locked, newer_options, refuse_other_build
from shards.shard import Job, digest_of_headers, write_shard
from shards.skipped import BY_SOURCE, SUFFIX, SUFFIXES, by_cause, read_skipped, write_skipped
from shards.source import Relevance, Source, Split, Splits, find_source
from shards.texts import without_bad_captions
from xmodal.activity import activity
from xmodal.data.digests import Digests
from xmodal.data.manifest import MANIFEST_NAME, RELEVANCE_NAME, read_manifest, write_manifest
from xmodal.data.shard_index import index_path, read_index, write_index
from xmodal.errors import UserError, printable

__all__ = ["PLAN_NAME", "build"]
_PART_SUFFIX = ".written"  # of a note that one of several parts of a build is


def build(
    source: str,
    to: str | Path,
    root: Path | None = None,
    *,
    splits: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    resize: int | None = None,
    samples_per_shard: int = 1000,
    workers: int = 1,
    part: tuple[int, int] = (1, 1),
) -> dict[str, str]:
    """Convert splits of a source (all by default) into shards below the folder `to`.

    The folder is local or in a bucket. Return the folder of each split. Files of earlier runs are
    kept; raises `UserError` if a folder holds anything but the same build, finished or not. Of
    several processes that write a `part` each, (2, 8) being the second of eight, the last one
    finishes the build.
    """
    found = find_source(source)
    to = check_folder(str(to), "--to")
    with activity(f"reading {source}"):
        available = found.read(root, options or {})
    folders = {name: f"{to}/{name}" for name in _asked(splits, available, found, root)}
    read_from = None if root is None else str(root.resolve())
    settings = found.defaults | dict(options or {})
    plans = {
        name: Plan(source, read_from, name, settings, resize, samples_per_shard) for name in folders
    }
    for name, folder in folders.items():
        refuse_other_build(folder, plans[name])
    wanted = _make_splits(available, plans, folders)
    for note in dict.fromkeys(note for split in wanted.values() for note in split.notes):
        print(f"note: {printable(note)}", file=sys.stderr, flush=True)
    for name, folder in folders.items():
        split = wanted.pop(name, None)
        if split is not None:
            _build_split(split, plans[name], folder, workers, part)
        else:
            note = f"{folder} is finished and stays as it is; remove it to build it again"
            print(f"note: {printable(note)}", file=sys.stderr, flush=True)
        print(_summary(name, folder, part), flush=True)
    return folders


def _asked(
    splits: Sequence[str], available: Splits, source: Source, root: Path | None
) -> Sequence[str]:
    unknown = sorted(set(splits) - set(available))
    if unknown:
        where = "" if root is None else f" in {root}"
        raise UserError(
            f"{source.name} has no split {unknown[0]!r}{where}, but {', '.join(available)}; "
            f"{source.hint}"
        )
    return list(dict.fromkeys(splits)) or list(available)


def _make_splits(
    available: Splits, plans: Mapping[str, Plan], folders: Mapping[str, str]
) -> dict[str, Split]:
    """Read what is not finished: all of it, so that what is missing is found before the work."""
    wanted = {}
    for name, plan in plans.items():
        finished = _is_finished(folders[name])
        if finished and not newer_options(folders[name], plan):
            continue
        with activity(f"reading the split {name} of {plan.source}"):
            split = without_bad_captions(available[name]())
        if not split.items:
            why = f"; skipped: {by_cause(split.skipped, detailed=True)}" if split.skipped else ""
            raise UserError(f"{plan.source} has no samples for the split {name}{why}")
        if finished:
            begin(folders[name], plan, split)
        else:
            wanted[name] = split
    return wanted


def _build_split(
    split: Split, plan: Plan, folder: str, workers: int, part: tuple[int, int]
) -> None:
    storage = storage_of(folder)
    begin(folder, plan, split)
    jobs = _jobs(split, plan, folder)
    tars = {name for name in storage.list(folder) if name.endswith(".tar")}
    foreign = tars - {name_of(job.tar) for job in jobs}
    if foreign:
        raise UserError(f"{folder}/{min(foreign)} is not a shard of this build: use another folder")
    number, parts = part
    with _forgotten_if_nothing(folder, parts), locked(folder, plan, shared=parts > 1):
        if split.skipped:
            write_skipped(split.skipped, f"{folder}/{BY_SOURCE}", storage)
        _write_shards(jobs[number - 1 :: parts], plan.split, workers)
        if parts > 1 and not _ends_last(folder, part):
            return
        counts, digests = _read_indices(folder, jobs)
        if not counts:
            _remove_notes(folder)
            forget(folder)
            raise UserError(
                f"no sample of the split {plan.split} can be used: "
                f"{by_cause(read_skipped(folder))}; all are listed in {folder}/*{SUFFIX}"
            )
        if split.relevance is not None:
            _write_relevance(split.relevance, folder)
        write_manifest(folder, counts, storage, digests)
        _remove_notes(folder)


@contextmanager
def _forgotten_if_nothing(folder: str, parts: int) -> Iterator[None]:
    """Leave no plan behind where a build ends by an error before its first shard."""
    try:
        yield
    except BaseException:
        if parts == 1:  # else another part may be at work
            forget(folder)
        raise


def _ends_last(folder: str, part: tuple[int, int]) -> bool:
    """Note that a part is written, and tell whether all are.

    Of parts that end at the same moment several may be last: they write the same.
    """
    number, parts = part
    storage = storage_of(folder)
    notes = [f"part-{one}-of-{parts}{_PART_SUFFIX}" for one in range(1, parts + 1)]
    storage.write(f"{folder}/{notes[number - 1]}", b"")
    return set(notes) <= storage.list(folder).keys()


def _remove_notes(folder: str) -> None:
    storage = storage_of(folder)
    for name in storage.list(folder):
        if name.endswith(_PART_SUFFIX):
            with suppress(FileNotFoundError):  # another part that was last as well removed it
                storage.remove(f"{folder}/{name}")


def _is_finished(folder: str) -> bool:
    if MANIFEST_NAME not in storage_of(folder).list(folder):
        return False
    try:
        read_manifest(folder)
    except UserError:
        return False
    return True


def _jobs(split: Split, plan: Plan, folder: str) -> list[Job]:
    size = plan.samples_per_shard
    return [
        Job(
            f"{folder}/{plan.split}-{number:06d}.tar",
            first,
            split.items[first : first + size],
            plan.split,
            split.gallery,
            plan.resize,
            split.below,
        )
        for number, first in enumerate(range(0, len(split.items), size))
    ]


def _write_shards(jobs: Sequence[Job], name: str, workers: int) -> None:
    there = _there(jobs) if jobs else set()
    missing = [job for job in jobs if job.tar not in there]
    _sweep(missing, there)
    with progress(name, sum(len(job.items) for job in jobs)) as advance:
        advance(sum(len(job.items) for job in jobs if job.tar in there))
        for _ in run_parallel(write_shard, missing, workers, advance):
            pass


def _there(jobs: Sequence[Job]) -> set[str]:
    """Return the files of the shards' folder."""
    folder = jobs[0].tar.rpartition("/")[0]
    return {f"{folder}/{name}" for name in storage_of(folder).list(folder)}


def _sweep(jobs: Sequence[Job], there: Collection[str]) -> None:
    """Remove what an earlier build began to write, or skipped, of shards that are written now."""
    stems = tuple(job.tar.removesuffix("tar") for job in jobs)
    for url in there:
        if url.endswith((".part", *SUFFIXES)) and url.startswith(stems):
            storage_of(url).remove(url)


def _read_indices(folder: str, jobs: Sequence[Job]) -> tuple[dict[str, int], dict[str, Digests]]:
    """Return the number of samples of each tar that is there, and its digests."""
    storage, there = storage_of(folder), _there(jobs)

    def read(tar: str) -> tuple[int, Digests]:
        if index_path(tar) in there:
            index = read_index(tar, storage)
            return len(index), Digests(index.digest, digest_of_headers(index))
        indexed = write_index(tar, storage)
        return indexed.num_samples, indexed.digests

    tars = [job.tar for job in jobs if job.tar in there]
    with activity("reading the indices"), ThreadPoolExecutor(16) as pool:
        found = dict(zip(map(name_of, tars), pool.map(read, tars), strict=True))
    counts = {name: count for name, (count, _) in found.items()}
    return counts, {name: digests for name, (_, digests) in found.items()}


def _write_relevance(relevance: Relevance, folder: str) -> None:
    # Samples that the source skipped may share a name with kept ones, as duplicates do.
    missing = {name for name, _, _ in read_skipped(folder, f"{name_of(folder)}-")}
    kept = {
        image_id: [[other for other in true if other not in missing] for true in captions]
        for image_id, captions in relevance.items()
        if image_id not in missing
    }
    storage_of(folder).write(f"{folder}/{RELEVANCE_NAME}", json.dumps(kept).encode())


def _summary(name: str, folder: str, part: tuple[int, int]) -> str:
    if part[1] > 1 and not _is_finished(folder):
        return f"{name}: part {part[0]} of {part[1]} is in {folder}; the last one writes the index"
    manifest = read_manifest(folder)
    num_bytes = sum(shard.num_bytes for shard in manifest.shards)
    line = (
        f"{name}: {manifest.num_samples:,} samples in {len(manifest.shards):,} shards "
        f"({num_bytes / 1e6:,.1f} MB) in {folder}"
    )
    skipped = by_cause(read_skipped(folder))
    return f"{line}\n  skipped: {skipped}" if skipped else line
