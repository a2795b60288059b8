"""Caption files of several data sets: token files and Karpathy's splits."""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from shards.files import read_text_file
from shards.source import Item, Split, Splits
from xmodal.errors import UserError

# Some images of COCO have six or seven captions; what is published counts the first five.
NUM_EVALUATED_CAPTIONS = 5
_TOKENS = re.compile(r"(?P<file>[^\t]+?)(#[a-z]+#\d+[\t ]|#[^#\t]*\t)(?P<caption>.*)")


def read_lines(path: Path) -> list[str]:
    """Read the non-blank lines of a text file; raises `UserError` if it is not UTF-8."""
    lines = read_text_file(path).split(b"\n")
    try:
        return [text for line in lines if (text := line.decode("utf-8-sig").strip())]
    except UnicodeDecodeError:
        number = next(n for n, line in enumerate(lines, 1) if not _is_utf8(line))
        raise UserError(f"line {number} of {path} is not UTF-8: save the file as UTF-8") from None


def read_json(path: Path) -> Any:
    """Read a JSON file; raises `UserError` if it is broken."""
    try:
        return json.loads(read_text_file(path))
    except UnicodeDecodeError:
        read_lines(path)  # names the line
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is broken JSON: {error}") from None


def read_token_file(path: Path) -> dict[str, list[str]]:
    """Read the captions of each image file: lines `NAME.jpg#0<TAB>caption`.

    Those of Flickr8k-CN name their language and have a space: `NAME.jpg#zhc#0 caption`.
    """
    captions = defaultdict(list)
    for line in read_lines(path):
        match = _TOKENS.fullmatch(line)
        if match is None:
            raise UserError(f"{path} has a line that is not NAME.jpg#0<TAB>caption: {line[:80]!r}")
        captions[match["file"]].append(match["caption"].strip())
    return dict(captions)


def karpathy_splits(path: Path, picture: Callable[[Mapping[str, Any]], Path]) -> Splits:
    """Read one of Karpathy's `dataset_*.json`.

    `picture` finds the file of an image when its split is made. `restval` counts as train. Images
    of val and test keep their first five captions.
    """
    images: dict[str, list[Mapping[str, Any]]] = {}
    with in_format(path, "one of Karpathy's splits"):
        for image in read_json(path)["images"]:
            name = "train" if image["split"] == "restval" else image["split"]
            images.setdefault(name, []).append(image)
    return {name: partial(_karpathy_split, path, name, images[name], picture) for name in images}


def _karpathy_split(
    path: Path,
    name: str,
    images: Sequence[Mapping[str, Any]],
    picture: Callable[[Mapping[str, Any]], Path],
) -> Split:
    items = []
    with in_format(path, "one of Karpathy's splits"):
        for image in images:
            captions = [stripped(sentence["raw"]) for sentence in image["sentences"]]
            kept = captions if name == "train" else captions[:NUM_EVALUATED_CAPTIONS]
            image_id = str(image.get("cocoid", Path(image["filename"]).stem))
            items.append(Item(image_id, picture(image), kept))
    return Split(items)


@contextmanager
def in_format(path: Path | str, what: str) -> Iterator[None]:
    """Convert what broken contents of a file lead to within the context into a `UserError`."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is not {what} (no {error})") from None


def stripped(caption: Any) -> Any:
    """Return a stripped text; other values are returned unchanged, to be counted as faults."""
    return caption.strip() if isinstance(caption, str) else caption


def splits_of(items: Mapping[str, Sequence[Item]]) -> Splits:
    """Return splits of known items."""
    return {name: partial(Split, kept) for name, kept in items.items()}


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
