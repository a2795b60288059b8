"""Lists of skipped samples beside the shards, each with name, cause and detail."""

import json
from collections import Counter
from collections.abc import Sequence

from shards.place import storage_of
from shards.source import SkippedSample
from xmodal.data.storage import Storage
from xmodal.errors import printable

SUFFIX = ".skipped.json"
SUFFIXES = (SUFFIX, ".left_out.json")  # the old name: of folders that were built before
BY_SOURCE = "source" + SUFFIX
_NUM_EXAMPLES = 5
_MAX_CHARACTERS = 200  # of an example: a name may be anything, such as an image in base64


def write_skipped(skipped: Sequence[SkippedSample], url: str, storage: Storage) -> None:
    """Write one list; names that are not UTF-8 keep their bytes."""
    text = json.dumps(skipped, ensure_ascii=False, indent=1) + "\n"
    storage.write(url, text.encode("utf-8", "surrogateescape"))


def read_skipped(folder: str, start: str = "") -> list[SkippedSample]:
    """Read the lists of a folder whose file names begin with `start`."""
    storage = storage_of(folder)
    names = sorted(storage.list(folder))
    # One that was written again under the new name counts, not the old one.
    lists = {
        name.removesuffix(suffix): name
        for suffix in reversed(SUFFIXES)
        for name in names
        if name.endswith(suffix) and name.startswith(start)
    }
    files = [storage.read(f"{folder}/{lists[stem]}") for stem in sorted(lists)]
    return [tuple(entry) for file in files for entry in json.loads(file)]


def by_cause(skipped: Sequence[SkippedSample], *, detailed: bool = False) -> str:
    """Count skipped samples by cause, with a few examples of each; `detailed` adds details."""
    counts = Counter(cause for _, cause, _ in skipped)
    return "; ".join(
        f"{count:,} {printable(cause)} ({_examples(skipped, cause, detailed)})"
        for cause, count in counts.items()
    )


def _examples(skipped: Sequence[SkippedSample], cause: str, detailed: bool) -> str:
    names = [
        printable(_cut(f"{name} {detail}" if detailed and detail not in ("", name) else name))
        for name, its_cause, detail in skipped
        if its_cause == cause
    ]
    more = ", …" if len(names) > _NUM_EXAMPLES else ""
    return ", ".join(names[:_NUM_EXAMPLES]) + more


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}…"
