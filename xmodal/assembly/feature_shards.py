"""Feature shards: what encoders make of a shard set, with the same samples in the same order.

Each rank writes whole shards, beside their place and renamed; those of an interrupted run are kept.
"""

import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import webdataset

from xmodal.activity import activity
from xmodal.data.batch import Fault
from xmodal.data.manifest import MANIFEST_NAME, Manifest, read_manifest, write_manifest
from xmodal.data.reader import SampleReader
from xmodal.data.sample_spec import parts_dropped
from xmodal.data.samples import RawSample
from xmodal.data.shard_index import index_path, write_index
from xmodal.data.taught_reader import stored_key
from xmodal.distributed.collectives import barrier, rank, world_size
from xmodal.errors import UserError

BATCH = 16  # samples encoded at a time: few enough to stay in a CPU's cache

Members = dict[str, bytes]  # a sample's files, by extension
Encode = Callable[[Sequence[RawSample]], Sequence[Members | Fault]]


def feature_shards(
    folder: Path,
    manifest: Manifest,
    encoder: Callable[[SampleReader, range], Encode],
    *,
    max_bad_share: float,
    say: Callable[[str], None],
) -> Manifest:
    """Return the shard set of features of `manifest` in a folder; missing shards are computed.

    `encoder` returns what encodes the samples of a shard, given their numbers. A sample that cannot
    be read is copied as it is. Raises `UserError` where they are too many.
    """
    complete = (folder / MANIFEST_NAME).is_file()
    if not complete:
        folder.mkdir(parents=True, exist_ok=True)
        say(f"computing features of {manifest.url} once, into {folder}")
        samples = SampleReader(manifest)
        for number in range(rank(), len(manifest.shards), world_size()):
            numbers, path = samples.numbers_of(number), folder / _name(number)
            if not Path(index_path(path)).is_file():
                faults = _write_shard(path, encoder(samples, numbers), samples, numbers)
                _report(faults, len(numbers), max_bad_share, say)
                say(f"features of {numbers.stop:,} of {manifest.num_samples:,} samples")
    barrier()
    if not complete and rank() == 0:
        sizes = {_name(i): shard.num_samples for i, shard in enumerate(manifest.shards)}
        write_manifest(folder, sizes)
    barrier()
    return read_manifest(folder)


def _write_shard(path: Path, encode: Encode, samples: SampleReader, numbers: range) -> list[Fault]:
    """Write the features of a shard's samples and return those that could not be read."""
    # A name of its own, because another job may be filling the same folder.
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    faults: list[Fault] = []
    tar = webdataset.TarWriter(str(partial), encoder=False)
    with tar, activity(f"computing features for {path.name}: sample", len(numbers)) as done:
        for chunk in (numbers[i : i + BATCH] for i in range(0, len(numbers), BATCH)):
            read = samples.load(chunk)
            for number, sample, made in zip(chunk, read, encode(read), strict=True):
                if isinstance(made, Fault):
                    faults.append(made)
                    copied = {extension: data or b"" for extension, data in sample.files.items()}
                    made = copied or {"txt": b""}  # of what is too large to be read
                else:
                    faults += parts_dropped(sample)
                tar.write({"__key__": stored_key(number, sample.key), **made})
            done.advance(len(chunk))
    partial.rename(path)
    write_index(path)
    return faults


def _report(faults: list[Fault], total: int, max_share: float, say: Callable[[str], None]) -> None:
    for fault in faults[:5]:
        say(f"{'part of a sample, dropped' if fault.partial else 'bad sample'}: {fault}")
    faults = [fault for fault in faults if not fault.partial]
    if len(faults) > max_share * max(total, 1000):
        raise UserError(
            f"{len(faults)} of {total} samples cannot be read, the first {faults[0]}; run "
            "`python -m shards check` on the shards or raise data.max_bad_share"
        )


def _name(number: int) -> str:
    return f"features-{number:06d}.tar"
