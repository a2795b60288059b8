"""Find what is broken in shards: tars read to their end, images decoded, texts read."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from shards.duplicates import Duplicates, ImageDigests
from shards.parallel import progress, run_parallel
from shards.picture import EXTENSIONS, PictureError, decode
from shards.place import find_tars, name_of, storage_of
from shards.sample import (
    FEATURES,
    PLAIN,
    SOURCE,
    TARGET,
    TEXT_FEATURES,
    SampleError,
    image_extensions,
    is_composed,
    read_captions,
    read_features,
    read_record,
)
from xmodal.data.decode import BadSample
from xmodal.data.limits import MAX_CAPTION_CHARACTERS
from xmodal.data.manifest import MANIFEST_NAME, read_manifest
from xmodal.data.samples import RawSample
from xmodal.data.shard_index import NO_DIGESTS, Digests, ShardIndex, index_path, sha256_of
from xmodal.data.storage import Storage
from xmodal.data.tar import Sample, grouped, scan_tar
from xmodal.errors import UserError, printable

_NUM_EXAMPLES = 5
_RECORD_TYPES = {
    "image_id": (str, int),
    "modification": (str,),
    "source_id": (str,),
    "target_id": (str,),
}

Fault = tuple[str, str]  # cause, detail


@dataclass
class Report:
    """How many samples were read, and what is broken by cause, with a few examples of each."""

    num_samples: int = 0
    num_broken: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    images: ImageDigests = field(default_factory=ImageDigests)

    def add(self, cause: str, example: str) -> None:
        self.counts[cause] += 1
        known = self.examples.setdefault(cause, [])
        if len(known) < _NUM_EXAMPLES:
            known.append(example)

    def merge(self, other: "Report") -> None:
        self.num_samples += other.num_samples
        self.num_broken += other.num_broken
        self.counts += other.counts
        for cause, examples in other.examples.items():
            known = self.examples.setdefault(cause, [])
            known += examples[: _NUM_EXAMPLES - len(known)]


def check(folder: str, workers: int) -> int:
    """Print what is broken in the shards of a folder; the exit code is 1 when something is."""
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
    """Read every sample of a tar and decode its images; compare the digests that are known."""
    report, storage, name = Report(), storage_of(tar), name_of(tar)
    samples: list[Sample] = []
    keys: set[str] = set()
    try:
        with scan_tar(tar, storage) as scan:
            for sample, _ in grouped(scan):
                samples.append(sample)
                content = _read(sample, scan.file)
                faults = [*_key_faults(sample.key, keys), *_content_faults(content)]
                keys.add(sample.key)
                _add_image(RawSample(name, sample.key, content), report.images, len(samples))
                report.num_broken += bool(faults)
                for cause, detail in faults:
                    report.add(cause, _example(name, sample.key, detail))
            if scan.beyond:
                report.add("tar cut or broken", scan.beyond)
            now = Digests(
                headers=digests.headers and scan.digest,
                sha256=digests.sha256 and sha256_of(tar, storage),
            )
        for cause, detail in _index_faults(tar, samples, storage):
            report.add(cause, _example(name, "", detail))
        for cause, detail in _digest_faults(digests, now):
            report.add(cause, _example(name, "", detail))
    except UserError as error:
        report.add("tar cut or broken", str(error))
    report.num_samples = len(samples)
    return report


def _add_image(sample: RawSample, images: ImageDigests, number: int) -> None:
    with suppress(BadSample):
        if not sample.composed:
            images.add(sample.image(), sample.image_id, number)


def _check_manifest(folder: str) -> tuple[Report, dict[str, Digests]]:
    """Return what is wrong with a folder's manifest, and the digests that it has of its shards."""
    report = Report()
    if MANIFEST_NAME in storage_of(folder).list(folder):
        try:
            return report, {shard.url: shard.digests for shard in read_manifest(folder).shards}
        except UserError as error:
            report.add("index wrong", str(error))
    return report, {}


def _read(sample: Sample, file: Any) -> dict[str, bytes]:
    files = {}
    for extension, (offset, size) in sample.members.items():
        file.seek(offset)
        files[extension] = file.read(size)
    return files


def _key_faults(key: str, seen: set[str]) -> Iterator[Fault]:
    if key in seen:
        yield "key twice", ""
    if ".." in key.split("/"):
        yield "`..` in a path", ""


def _content_faults(files: dict[str, bytes]) -> Iterator[Fault]:
    images = image_extensions(files)
    features = {role: name for role, name in FEATURES.items() if name in files}
    roles = {*images, *features}
    if not roles:
        yield "no image", f"files {', '.join(files)}"
    for role, extension in images.items():
        yield from _image_faults(files[role + extension], extension)
    record: dict[str, Any] = {}
    try:
        if "json" in files:
            record = read_record(files["json"])
            yield from _record_faults(record)
        if is_composed(roles):
            yield from _composed_faults(roles, record)
        for name in features.values():
            read_features(files[name], name)
        if PLAIN in roles:
            yield from _text_faults(files, record)
    except SampleError as error:
        yield error.cause, error.detail


def _image_faults(data: bytes, extension: str) -> Iterator[Fault]:
    try:
        image = decode(data)
    except PictureError as error:
        yield f"image: {error.cause}", error.detail
        return
    right = EXTENSIONS.get(image.format or "", "none")
    if right != extension.replace("jpeg", "jpg"):
        yield "image: wrong extension", f"{extension}, but the content is {image.format}"


def _record_faults(record: dict[str, Any]) -> Iterator[Fault]:
    for key, kinds in _RECORD_TYPES.items():
        value = record.get(key)
        if value is not None and not isinstance(value, kinds):
            yield "JSON of the wrong type", f"{key} is no {' or '.join(k.__name__ for k in kinds)}"
    labels = record.get("labels", [])
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        yield "JSON of the wrong type", "labels is no list of strings"


def _composed_faults(roles: set[str], record: dict[str, Any]) -> Iterator[Fault]:
    # CIRR's test1 is published without targets: what it has in place of them are the members.
    has_target = TARGET in roles or "target_id" in record or "members" not in record
    for role in (SOURCE, TARGET) if has_target else (SOURCE,):
        if role not in roles:
            yield "no image", f"a composed sample without {role}jpg"
    for key in ("modification", "source_id", *(["target_id"] if has_target else [])):
        if not record.get(key):
            yield "composed sample incomplete", f"no {key}"


def _text_faults(files: dict[str, bytes], record: dict[str, Any]) -> Iterator[Fault]:
    rows = None
    if TEXT_FEATURES in files:
        rows = len(read_features(files[TEXT_FEATURES], TEXT_FEATURES))
    says_nothing = not record.get("captions") and "txt" not in files
    if says_nothing and (rows is not None or record.get("gallery") is True):
        return
    captions = read_captions(record, files.get("txt"))
    if rows not in (None, len(captions)):
        yield "features: not one row a caption", f"{rows} rows, {len(captions)} captions"
    for caption in captions:
        yield from _caption_faults(caption)


def _caption_faults(caption: str) -> Iterator[Fault]:
    if not caption.strip():
        yield "caption empty", ""
    if len(caption) > MAX_CAPTION_CHARACTERS:
        yield f"caption over {MAX_CAPTION_CHARACTERS:,} characters", f"{len(caption):,}"
    if any("\ud800" <= character <= "\udfff" for character in caption):
        yield "not UTF-8", "half of a surrogate pair"


def _index_faults(tar: str, samples: list[Sample], storage: Storage) -> Iterator[Fault]:
    if not samples:
        yield "no samples", ""
    try:
        text = storage.read(index_path(tar))
    except FileNotFoundError:
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
    for cause, count in report.counts.most_common():
        print(f"{count:>8,}  {printable(cause)}")
        for example in report.examples[cause]:
            print(f"          {printable(example)}")
        if count > len(report.examples[cause]):
            print("          …")
    print(f"{report.num_broken:,} samples are broken" if report.counts else "nothing is broken")
