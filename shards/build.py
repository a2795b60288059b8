"""Write a data set as shards: in parallel, the same bytes each time, resumed where it was killed.

A split's folder tells by itself how far its build is. `build.json` says what is being built; a
tar stands under its name only when it is whole and its `.idx` is there; `shardindex.json` is
written last. Running the same command again therefore makes what is missing and nothing else.
"""

import fcntl
import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from shards.parallel import progress, run_parallel
from shards.picture import PictureError, stored
from shards.place import name_of, storage_of
from shards.sample import SampleError, encode_features
from shards.source import Composed, Item, LeftOut, Picture, Relevance, Split, find_source
from xmodal.data.limits import MAX_CAPTION_CHARACTERS
from xmodal.data.manifest import (
    MANIFEST_NAME,
    RELEVANCE_NAME,
    read_manifest,
    write_manifest,
)
from xmodal.data.shard_index import index_path, read_index, write_index, write_index_of
from xmodal.data.storage import Storage, is_remote
from xmodal.data.tar import Member, grouped
from xmodal.errors import UserError

PLAN_NAME = "build.json"
_LEFT_OUT_SUFFIX = ".left_out.json"
_LEFT_OUT_BY_SOURCE = "source" + _LEFT_OUT_SUFFIX
_PART_SUFFIX = ".written"  # of a note that one of several parts of a build is
_NUM_EXAMPLES = 5


@dataclass(frozen=True)
class _Plan:
    """What is built in a folder, and how; kept beside the shards."""

    source: str
    read_from: str | None
    split: str
    options: dict[str, Any]
    resize: int | None
    samples_per_shard: int


@dataclass(frozen=True)
class _Job:
    """One tar to write: its samples, the number of the first one, and how."""

    tar: str
    first: int
    items: Sequence[Item | Composed]
    split: str
    gallery: bool
    resize: int | None


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
    """Convert splits of a source (all where none is named) into shards below the folder `to`.

    The folder is of this machine or of a bucket. Returns the folder of each split. What a former
    run has finished is kept; raises `UserError` when a folder holds anything but the same build,
    begun or finished. Of several that write a `part` each, (2, 8) being the second of eight, the
    last to end finishes the build.
    """
    found = find_source(source)
    available = found.read(root, options or {})
    unknown = sorted(set(splits) - set(available))
    if unknown:
        raise UserError(f"{source} has no split {unknown[0]}: there are {', '.join(available)}")
    folders = {name: f"{to}/{name}" for name in splits or available}
    read_from = None if root is None else str(root.resolve())
    settings = found.defaults | dict(options or {})
    plans = {
        name: _Plan(source, read_from, name, settings, resize, samples_per_shard)
        for name in folders
    }
    for name, folder in folders.items():
        _refuse_other_build(folder, plans[name])
    for name, folder in folders.items():
        if not _is_finished(folder):
            _build_split(available[name](), plans[name], folder, workers, part)
        print(_summary(name, folder, part), flush=True)
    return folders


def _build_split(
    split: Split, plan: _Plan, folder: str, workers: int, part: tuple[int, int]
) -> None:
    if not split.items:
        causes = _causes(split.left_out)
        why = f": left out are {causes}" if causes else ""
        raise UserError(f"{plan.source} has no samples for the split {plan.split}{why}")
    storage = storage_of(folder)
    _begin(folder, plan, split)
    jobs = _jobs(split, plan, folder)
    tars = {name for name in storage.list(folder) if name.endswith(".tar")}
    foreign = tars - {name_of(job.tar) for job in jobs}
    if foreign:
        raise UserError(f"{folder}/{min(foreign)} is no shard of this build: use another folder")
    number, parts = part
    with _locked(folder, shared=parts > 1):
        if split.left_out:
            _write_left_out(split.left_out, f"{folder}/{_LEFT_OUT_BY_SOURCE}", storage)
        _write_shards(jobs[number - 1 :: parts], plan.split, workers)
        if parts > 1 and not _ends_last(folder, part):
            return
        counts = _count_samples(folder, jobs)
        if not counts:
            causes = _causes(_left_out(folder))
            raise UserError(f"no sample of the split {plan.split} can be used: {causes}")
        if split.relevance is not None:
            _write_relevance(split.relevance, folder)
        write_manifest(folder, counts, storage)
        _remove_notes(folder)


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


def _refuse_other_build(folder: str, plan: _Plan) -> None:
    names = storage_of(folder).list(folder)
    if PLAN_NAME not in names:
        strangers = sorted(name for name in names if name.endswith(".tar"))
        strangers += [name for name in names if name == MANIFEST_NAME]
        if strangers:
            raise UserError(
                f"{folder}/{strangers[0]} is not from a build of ours: use another folder"
            )
        return
    begun = _read_begun(folder)
    for key, value in asdict(plan).items():
        if begun.get(key) != value:
            raise UserError(
                f"{folder} was built with {key} {begun.get(key)}, not {value}: use another folder, "
                "or remove this one"
            )


def _read_begun(folder: str) -> dict[str, Any]:
    path = f"{folder}/{PLAN_NAME}"
    try:
        return dict(json.loads(storage_of(folder).read(path)))
    except (ValueError, TypeError):
        raise UserError(f"{path} is damaged: remove the folder") from None


def _is_finished(folder: str) -> bool:
    if MANIFEST_NAME not in storage_of(folder).list(folder):
        return False
    try:
        read_manifest(folder)
    except UserError:
        return False
    return True


def _begin(folder: str, plan: _Plan, split: Split) -> None:
    digest, storage = _digest(split), storage_of(folder)
    if PLAN_NAME not in storage.list(folder):
        text = json.dumps(asdict(plan) | {"digest": digest}, indent=1)
        storage.write(f"{folder}/{PLAN_NAME}", f"{text}\n".encode())
    elif _read_begun(folder).get("digest") != digest:
        raise UserError(
            f"{folder} was begun from other samples than {plan.read_from or plan.source} has now: "
            "use another folder, or remove this one"
        )


def _locked(folder: str, *, shared: bool) -> AbstractContextManager[None]:
    # Two builds of the same into a bucket do twice the work, and write the same bytes.
    return nullcontext() if is_remote(folder) else _locked_on_disk(Path(folder), shared=shared)


@contextmanager
def _locked_on_disk(folder: Path, *, shared: bool) -> Iterator[None]:
    with (folder / PLAN_NAME).open("r+b") as plan:
        try:
            fcntl.flock(plan, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another build is writing {folder}: wait until it ends") from None
        yield


def _digest(split: Split) -> str:
    digest = hashlib.sha256()
    for item in split.items:
        digest.update(json.dumps(item.record).encode())
        for array in item.features.values():
            digest.update(array.tobytes())
    return digest.hexdigest()


def _jobs(split: Split, plan: _Plan, folder: str) -> list[_Job]:
    size = plan.samples_per_shard
    return [
        _Job(
            f"{folder}/{plan.split}-{number:06d}.tar",
            first,
            split.items[first : first + size],
            plan.split,
            split.gallery,
            plan.resize,
        )
        for number, first in enumerate(range(0, len(split.items), size))
    ]


def _write_shards(jobs: Sequence[_Job], name: str, workers: int) -> None:
    there = _there(jobs) if jobs else set()
    missing = [job for job in jobs if job.tar not in there]
    _sweep(missing, there)
    with progress(name, sum(len(job.items) for job in jobs)) as advance:
        advance(sum(len(job.items) for job in jobs if job.tar in there))
        for job, _ in run_parallel(_write_shard, missing, workers):
            advance(len(job.items))


def _there(jobs: Sequence[_Job]) -> set[str]:
    """Return the files of the shards' folder."""
    folder = jobs[0].tar.rpartition("/")[0]
    return {f"{folder}/{name}" for name in storage_of(folder).list(folder)}


def _sweep(jobs: Sequence[_Job], there: Collection[str]) -> None:
    """Remove what a killed build had begun to write of shards that are to be written."""
    for url in there:
        if url.endswith(".part") and any(
            url.startswith(job.tar.removesuffix("tar")) for job in jobs
        ):
            storage_of(url).remove(url)


def _write_shard(job: _Job) -> None:
    storage = storage_of(job.tar)
    try:
        with storage.create(job.tar) as file:
            members, left_out = _write_samples(job, file)
            if left_out:
                _write_left_out(left_out, job.tar.removesuffix(".tar") + _LEFT_OUT_SUFFIX, storage)
            if not members:
                raise _NothingToKeep
            write_index_of(job.tar, grouped(members, job.tar), storage)
    except _NothingToKeep:
        pass


class _NothingToKeep(Exception):
    """No sample of a shard can be used."""


def _write_samples(job: _Job, file: BinaryIO) -> tuple[list[Member], list[LeftOut]]:
    members, left_out = [], []
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, item in enumerate(job.items, job.first):
            try:
                files = _sample_files(item, job)
            except (PictureError, SampleError) as error:
                left_out.append((item.name, error.cause, error.detail))
                continue
            for extension, data in files.items():
                members.append(_add(tar, f"{number:09d}.{extension}", data))
    return members, left_out


def _sample_files(item: Item | Composed, job: _Job) -> dict[str, bytes]:
    needs_no_text = job.gallery or "text." in item.features
    if not all(item.texts) or not (item.texts or needs_no_text):
        raise SampleError("no caption")
    if any(len(text) > MAX_CAPTION_CHARACTERS for text in item.texts):
        raise SampleError(f"caption over {MAX_CAPTION_CHARACTERS:,} characters")
    files = {}
    for prefix, picture in item.pictures.items():
        extension, data = stored(_picture_bytes(picture), job.resize)
        files[prefix + extension] = data
    for prefix, array in item.features.items():
        files[prefix + "npy"] = encode_features(array)
    record = item.record | {"split": job.split} | ({"gallery": True} if job.gallery else {})
    files["json"] = json.dumps(record).encode()
    return files


def _picture_bytes(picture: Picture) -> bytes:
    if not isinstance(picture, Path):
        return picture()
    try:
        return picture.read_bytes()
    except FileNotFoundError:
        raise PictureError("missing", str(picture)) from None
    except OSError as error:
        raise PictureError("cannot be read", f"{picture}: {error.strerror}") from None


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> Member:
    info = tarfile.TarInfo(name)  # no owner and time zero: the same samples make the same bytes
    info.size = len(data)
    begin = tar.offset + tarfile.BLOCKSIZE  # behind the header, which is of one block in USTAR
    tar.addfile(info, io.BytesIO(data))
    return Member(name, begin, len(data))


def _count_samples(folder: str, jobs: Sequence[_Job]) -> dict[str, int]:
    """Return the number of samples of each tar that is there, from its index."""
    storage, there = storage_of(folder), _there(jobs)

    def count(tar: str) -> int:
        if index_path(tar) in there:
            return len(read_index(tar, storage))
        return write_index(tar, storage).num_samples

    tars = [job.tar for job in jobs if job.tar in there]
    with ThreadPoolExecutor(16) as pool:
        return dict(zip(map(name_of, tars), pool.map(count, tars), strict=True))


def _write_relevance(relevance: Relevance, folder: str) -> None:
    # What the source itself left out may have the name of what it kept, as duplicates have.
    missing = {name for name, _, _ in _left_out(folder, f"{name_of(folder)}-")}
    kept = {
        image_id: [[other for other in true if other not in missing] for true in captions]
        for image_id, captions in relevance.items()
        if image_id not in missing
    }
    storage_of(folder).write(f"{folder}/{RELEVANCE_NAME}", json.dumps(kept).encode())


def _write_left_out(left_out: Sequence[LeftOut], url: str, storage: Storage) -> None:
    text = json.dumps(left_out, ensure_ascii=False, indent=1) + "\n"
    storage.write(url, text.encode("utf-8", "surrogateescape"))


def _left_out(folder: str, start: str = "") -> list[LeftOut]:
    storage = storage_of(folder)
    names = sorted(name for name in storage.list(folder) if name.endswith(_LEFT_OUT_SUFFIX))
    files = [storage.read(f"{folder}/{name}") for name in names if name.startswith(start)]
    return [tuple(entry) for file in files for entry in json.loads(file)]


def _summary(name: str, folder: str, part: tuple[int, int]) -> str:
    if part[1] > 1 and not _is_finished(folder):
        return f"{name}: part {part[0]} of {part[1]} is in {folder}; the last one writes the index"
    manifest = read_manifest(folder)
    num_bytes = sum(shard.num_bytes for shard in manifest.shards)
    line = (
        f"{name}: {manifest.num_samples:,} samples in {len(manifest.shards):,} shards "
        f"({num_bytes / 1e6:,.1f} MB) in {folder}"
    )
    causes = _causes(_left_out(folder))
    return f"{line}\n  left out: {causes}" if causes else line


def _causes(left_out: Sequence[LeftOut]) -> str:
    """Name what was left out by cause, with a few examples of each."""
    counts = Counter(cause for _, cause, _ in left_out)
    return "; ".join(
        f"{count:,} {cause} ({_examples(left_out, cause)})" for cause, count in counts.items()
    )


def _examples(left_out: Sequence[LeftOut], cause: str) -> str:
    names = [name for name, its_cause, _ in left_out if its_cause == cause]
    more = ", …" if len(names) > _NUM_EXAMPLES else ""
    return ", ".join(names[:_NUM_EXAMPLES]) + more
