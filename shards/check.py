"""Check of shards: read tars to their end, decode images, read texts."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from io import SEEK_END
from typing import BinaryIO

from shards.duplicates import Duplicates, ImageDigests
from shards.parallel import progress, run_parallel
from shards.place import find_tars, name_of, storage_of
from shards.sample_faults import Fault, judge
from xmodal.data.decode import BadSample
from xmodal.data.digests import NO_DIGESTS, Digests, sha256_of
from xmodal.data.manifest import MANIFEST_NAME, read_manifest
from xmodal.data.samples import COMES_TWICE, RawSample, read_sample
from xmodal.data.shard_index import NO_NAME_OF_INDEX, ShardIndex, index_path, is_readable
from xmodal.data.storage import Storage
from xmodal.data.tar import Sample, grouped, scan_tar
from xmodal.errors import UserError, printable

_NUM_EXAMPLES = 5


@dataclass
class Report:
    """Number of samples read, and faults by cause with a few examples of each.

    `hints` lists files that are intact but differ from what their names announce.
    """

    num_samples: int = 0
    num_broken: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    hints: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    images: ImageDigests = field(default_factory=ImageDigests)

    def add(self, cause: str, example: str, *, hint: bool = False) -> None:
        (self.hints if hint else self.counts)[cause] += 1
        known = self.examples.setdefault(cause, [])
        if len(known) < _NUM_EXAMPLES:
            known.append(example)

    def merge(self, other: "Report") -> None:
        self.num_samples += other.num_samples
        self.num_broken += other.num_broken
        self.counts += other.counts
        self.hints += other.hints
        for cause, examples in other.examples.items():
            known = self.examples.setdefault(cause, [])
            known += examples[: _NUM_EXAMPLES - len(known)]


def check(folder: str, workers: int) -> int:
    """Print the faults of the shards of a folder; return exit code 1 if there are any."""
    tars = find_tars(folder)
    total, digests = _check_manifest(folder)
    jobs = [(tar, digests.get(tar, NO_DIGESTS)) for tar in tars]
    reports, duplicates = {}, Duplicates(tars)
    with progress("check", len(tars)) as advance:
        for (tar, _), report in run_parallel(_check_job, jobs, min(workers, len(tars))):
            reports[tar] = report
            duplicates.add(tar, report.images.rows)
            report.images = ImageDigests()  # those of all tars together could fill the memory
            advance(1)
    for tar in tars:
        total.merge(reports[tar])
    _print(total, folder, len(tars))
    if line := str(duplicates):
        print(f"warning: {printable(line)}", file=sys.stderr)
    return 1 if total.counts else 0


def _check_job(job: tuple[str, Digests]) -> Report:
    return check_tar(*job)


def check_tar(tar: str, digests: Digests = NO_DIGESTS) -> Report:
    """Read every sample of a tar and decode its images; compare the known digests."""
    report, storage, name = Report(), storage_of(tar), name_of(tar)
    samples: list[Sample] = []
    num_samples = 0
    keys: set[str] = set()
    try:
        with scan_tar(tar, storage) as scan:
            for sample, names in grouped(scan):
                num_samples += 1
                doubt = COMES_TWICE if sample.key in keys else None
                if is_readable(sample, names):
                    samples.append(sample)
                else:
                    doubt = NO_NAME_OF_INDEX
                read = read_sample(tar, *sample, partial(_read, scan.file), doubt)
                _check_sample(read, name, report)
                keys.add(sample.key)
                _add_image(read, report.images, num_samples)
            if scan.beyond:
                report.add("tar cut or broken", scan.beyond)
            now = Digests(
                headers=digests.headers and scan.digest,
                sha256=digests.sha256 and sha256_of(tar, storage),
            )
            num_bytes = scan.file.seek(0, SEEK_END)
        for cause, detail in _index_faults(tar, samples, storage, num_bytes):
            report.add(cause, _example(name, "", detail))
        for cause, detail in _digest_faults(digests, now):
            report.add(cause, _example(name, "", detail))
    except UserError as error:
        report.add("tar cut or broken", str(error))
    report.num_samples = num_samples
    return report


def _add_image(sample: RawSample, images: ImageDigests, number: int) -> None:
    with suppress(BadSample):
        if not sample.composed:
            images.add(sample.image(), sample.image_id, number)


def _check_manifest(folder: str) -> tuple[Report, dict[str, Digests]]:
    """Return the fault of a folder's manifest, and the digests that it has of its shards."""
    report = Report()
    if MANIFEST_NAME in storage_of(folder).list(folder):
        try:
            return report, {shard.url: shard.digests for shard in read_manifest(folder).shards}
        except UserError as error:
            report.add("index wrong", str(error))
    return report, {}


def _check_sample(sample: RawSample, tar: str, report: Report) -> None:
    faults, dropped, hints = judge(sample)
    report.num_broken += bool(faults)
    for cause, detail in faults:
        report.add(cause, _example(tar, sample.key, detail))
    for cause, detail in dropped:
        report.add(f"dropped: {cause}", _example(tar, sample.key, detail))
    for cause, detail in hints:
        report.add(cause, _example(tar, sample.key, detail), hint=True)


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def _index_faults(
    tar: str, samples: list[Sample], storage: Storage, num_bytes: int
) -> Iterator[Fault]:
    if not samples:
        yield "no samples", ""
    try:
        with storage.open(index_path(tar)) as file:
            if file.seek(0, SEEK_END) > 2 * num_bytes:
                yield "index wrong", f"{name_of(index_path(tar))} is larger than its tar"
                return
            file.seek(0)
            text = file.read()
    except FileNotFoundError:
        return
    except OSError as error:
        yield "index wrong", f"{name_of(index_path(tar))} cannot be read: {error.strerror}"
        return
    try:
        indexed = ShardIndex(text, index_path(tar))[:]
    except UserError as error:
        yield "index wrong", str(error)
        return
    if indexed != samples:
        yield "index wrong", f"{name_of(index_path(tar))} is of another tar"


def _digest_faults(known: Digests, now: Digests) -> Iterator[Fault]:
    if known.headers != now.headers:
        yield "changed since it was indexed", "its headers have another digest"
    if known.sha256 != now.sha256:
        yield "changed since it was indexed", f"SHA-256 {now.sha256}, {known.sha256} then"


def _example(tar: str, key: str, detail: str) -> str:
    return " ".join(filter(None, (tar, key))) + (f": {detail}" if detail else "")


def _print(report: Report, folder: str, num_tars: int) -> None:
    print(f"{report.num_samples:,} samples in {num_tars:,} shards of {folder}")
    _print_causes(report.counts, report)
    print(f"{report.num_broken:,} samples are broken" if report.counts else "nothing is broken")
    if report.hints:
        print("read all the same:")
        _print_causes(report.hints, report)


def _print_causes(counts: Counter[str], report: Report) -> None:
    for cause, count in counts.most_common():
        print(f"{count:>8,}  {printable(cause)}")
        for example in report.examples[cause]:
            print(f"          {printable(example)}")
        if count > len(report.examples[cause]):
            print("          …")
