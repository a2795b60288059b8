"""Names of classes and templates of captions beside a labelled shard set, as CLIP_benchmark's.

Line n of `classnames.txt`, from 0, is the name of class n, and a line of
`zeroshot_classification_templates.txt` a caption with {c} in the place of a name. They lie in the
folder of the shards, or in the one above: `FOLDER/classnames.txt` of `FOLDER/test/0.tar`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from xmodal.data.manifest import Manifest
from xmodal.data.storage import Storage, is_remote, split_url
from xmodal.errors import UserError

NAMES, TEMPLATES = "classnames.txt", "zeroshot_classification_templates.txt"
_MOST_BYTES = 2**24


@dataclass(frozen=True)
class ClassFiles:
    """Contents of both files; None where there is no such file."""

    shards: str  # URL
    names: tuple[str, ...] | None
    templates: tuple[str, ...] | None  # with {} in the place of a name

    def number(self, label: str) -> int:
        """Return the class of a label: a whole number is that of a line, any other text a line.

        Raises `UserError` for any other label.
        """
        assert self.names is not None
        found = int(label) if is_number(label) else self._numbers.get(label, -1)
        if not 0 <= found < len(self.names):
            raise UserError(
                f"{self.shards} has the label {label}, which {NAMES} beside it does not have: it "
                f"has {len(self.names):,} lines, counted from 0; complete it"
            )
        return found

    @cached_property
    def _numbers(self) -> dict[str, int]:
        assert self.names is not None
        return {name: number for number, name in reversed(list(enumerate(self.names)))}


def is_number(label: str) -> bool:
    """Return whether a label is a whole number."""
    return label.isascii() and label.isdigit()


def read_class_files(shards: Manifest) -> ClassFiles:
    """Read the files of a shard set; raises `UserError` where they cannot be used."""
    folders = dict.fromkeys(split_url(shard.url)[0] for shard in shards.shards)
    found = {tuple(_lines(one, shards.storage, name) for name in (NAMES, TEMPLATES))
             for one in folders}  # fmt: skip
    if len(found) > 1:
        raise UserError(
            f"{shards.url}: its folders have different {NAMES} or {TEMPLATES}; measure one of them"
        )
    ((names, templates),) = found
    if templates:
        templates = tuple(map(_template, templates))
    return ClassFiles(shards.url, names, templates)


def _template(line: str) -> str:
    if "{c}" not in line:
        raise UserError(f"{TEMPLATES}: {line!r} has no {{c}}, the place of a class's name")
    return line.replace("{c}", "{}")


def _lines(folder: str, storage: Storage, name: str) -> tuple[str, ...] | None:
    """Return the lines of a file in a folder, or in the one above; None where there is none."""
    for place in _places(folder):
        url = f"{place}/{name}"
        try:
            data = storage.read(url, 0, _MOST_BYTES + 1)
        except FileNotFoundError:
            continue
        return _parsed(data, url)
    return None


def _places(folder: str) -> Iterator[str]:
    yield folder
    if not is_remote(folder):
        yield str(Path(folder).absolute().parent)
    elif "/" in folder.partition("://")[2]:
        yield split_url(folder)[0]


def _parsed(data: bytes, url: str) -> tuple[str, ...]:
    if len(data) > _MOST_BYTES:
        raise UserError(f"{url} is over {_MOST_BYTES:,} bytes; remove or restore it")
    try:
        lines = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise UserError(f"{url} is not UTF-8; remove or restore it") from None
    if not lines or "" in lines:
        number = lines.index("") + 1 if lines else 1
        raise UserError(f"{url}: line {number} is empty; each line is one of its texts")
    return tuple(lines)
