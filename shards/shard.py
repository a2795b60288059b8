"""Writing of one shard: a tar of its samples, and its index."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from shards.files import Skipped, read_file
from shards.parallel import count
from shards.picture import stored
from shards.place import storage_of
from shards.skipped import SUFFIX as SKIPPED_SUFFIX
from shards.skipped import write_skipped
from shards.source import Composed, Item, Picture, SkippedSample
from xmodal.data.decode import BadSample
from xmodal.data.fields import captions_of
from xmodal.data.limits import MAX_TEXT_BYTES
from xmodal.data.samples import doubt_of_size
from xmodal.data.shard_index import write_index_of
from xmodal.data.tar import Member, Sample, grouped

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Job:
    """Tar to write: its samples, the number of the first one, and options."""

    tar: str
    first: int
    items: Sequence[Item | Composed]
    split: str
    gallery: bool
    resize: int | None
    below: Path | None


def write_shard(job: Job) -> None:
    """Write a tar, its `.idx` and its list of skipped samples; no tar if all were skipped."""
    storage = storage_of(job.tar)
    try:
        with storage.create(job.tar) as file:
            members, skipped = _write_samples(job, file)
            if skipped:
                write_skipped(skipped, job.tar.removesuffix(".tar") + SKIPPED_SUFFIX, storage)
            if not members:
                raise _NothingToKeep
            write_index_of(job.tar, grouped(members), storage)
    except _NothingToKeep:
        pass


class _NothingToKeep(Exception):
    """No sample of a shard can be used."""


def _write_samples(job: Job, file: BinaryIO) -> tuple[list[Member], list[SkippedSample]]:
    members, skipped = [], []
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, item in enumerate(job.items, job.first):
            count()
            try:
                files = _sample_files(item, job)
            except Skipped as error:
                skipped.append((item.name, error.cause, error.detail))
                continue
            except BadSample as error:
                skipped.append((item.name, str(error), str(error.__cause__ or "")))
                continue
            for extension, data in files.items():
                members.append(_add(tar, f"{number:09d}.{extension}", data))
    return members, skipped


def _sample_files(item: Item | Composed, job: Job) -> dict[str, bytes]:
    needs_no_text = job.gallery or "text." in item.features
    captions = captions_of(list(item.texts))
    for fault in captions.dropped:  # of a query; those of images are gone
        raise Skipped(fault)
    if not (captions.kept or needs_no_text):
        raise Skipped("no caption")
    files = {}
    for prefix, picture in item.pictures.items():
        extension, data = stored(_picture_bytes(picture, job.below), job.resize)
        files[prefix + extension] = data
    for prefix, array in item.features.items():
        files[prefix + "npy"] = _npy(array)
    record = item.record | {"split": job.split} | ({"gallery": True} if job.gallery else {})
    files["json"] = json.dumps(record).encode()
    if len(files["json"]) > MAX_TEXT_BYTES:
        raise Skipped(f"captions and ids over {MAX_TEXT_BYTES:,} bytes")
    if doubt := doubt_of_size(map(len, files.values())):
        raise Skipped(doubt)
    return files


def _picture_bytes(picture: Picture, below: Path | None) -> bytes:
    return read_file(picture, below) if isinstance(picture, Path) else picture()


def _npy(array: "np.ndarray") -> bytes:
    """Return the bytes of a .npy file: float32, little endian, C order, no pickle."""
    import numpy as np

    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, "<f4")
    if not np.isfinite(array).all():
        raise Skipped("features: not finite")
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def digest_of_headers(samples: Iterable[Sample]) -> str:
    """Return the digest of a written tar's headers, as `shards index` would read it there."""
    digest = hashlib.blake2b(digest_size=16)
    for sample in samples:
        for extension, (_, size) in sample.members.items():
            info = _header(f"{sample.key}.{extension}", size)
            digest.update(info.tobuf(tarfile.USTAR_FORMAT))
    return digest.hexdigest()


def _header(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)  # no owner and time zero: the same samples make the same bytes
    info.size = size
    return info


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> Member:
    info = _header(name, len(data))
    begin = tar.offset + tarfile.BLOCKSIZE  # behind the header, which is of one block in USTAR
    tar.addfile(info, io.BytesIO(data))
    return Member(name, begin, len(data))
