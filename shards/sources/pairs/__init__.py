"""Your own pairs: a table of image paths and captions, or images with .txt files beside them."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from shards.annotations import read_lines
from shards.source import Item, LeftOut, MissingError, Relevance, Split, Splits
from shards.sources.pairs.tables import SUFFIXES, Row, read_rows
from xmodal.errors import UserError

LAYOUT = """
a table, .csv, .tsv, .jsonl, .json (a list of objects) or .parquet: --from is the file, or a
folder that has one, or one for each split (train.csv, val.csv, or train/metadata.csv, …)
  image     path of the image, from the table's folder or absolute; also image_path, filepath,
            file_path, file_name, filename, path, file, img
  caption   also captions, text, title, sentence, description; a list, or one for each row
  label     also labels, category, class; a list or one; may be missing
  image_id  may be missing: then the path is the id
  split     train, val, …; may be missing
or no table: images at any depth, each with a .txt of the same name beside it, a caption for each
line; the first folder is the split where it is called train, val or test

The options image, caption, label, image_id and split name other columns. Rows of the same image
are one sample. Where no split is said, all is train. val=0.05 and test=0.05 take that share of
train by a hash of an image's first caption: images of the same one stay together, and rows that
are added later move no others. Captions that several images of a split have (but for train) are
in its relevance.json. Paths may lead out of the folder: the table is taken to be your own.
"""

_SPLITS = ("train", "val", "validation", "valid", "dev", "test")
_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def read(
    root: Path,
    *,
    image: str = "",
    caption: str = "",
    label: str = "",
    image_id: str = "",
    split: str = "",
    val: float = 0.0,
    test: float = 0.0,
) -> Splits:
    """Find the splits that the rows name, or else train, and the shares of it that are taken."""
    if min(val, test) < 0 or val + test >= 1:
        raise UserError(f"val={val} test={test}: they are shares of all images, below 1 in sum")
    asked = {
        "image": image, "caption": caption, "label": label, "image_id": image_id, "split": split
    }  # fmt: skip
    tables = _find_tables(root)
    pairs = _Pairs()
    for table in tables:
        for row in read_rows(table, asked):
            pairs.add_row(row, table, _split_of(table))
    if not tables:
        pairs.add_folder(root)
    return pairs.splits({"val": val, "test": test})


def _find_tables(root: Path) -> list[Path]:
    if root.is_file():
        if root.suffix.lower() not in SUFFIXES:
            raise MissingError(f"{root} is no table: it ends with none of {', '.join(SUFFIXES)}")
        return [root]
    folders = [root, *(root / name for name in _SPLITS if (root / name).is_dir())]
    tables = [
        path
        for folder in folders
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    ]
    if len({_split_of(table) for table in tables}) < len(tables):
        names = ", ".join(str(table.relative_to(root)) for table in tables)
        raise UserError(f"{root} has several tables ({names}): name one of them by --from")
    return tables


def _split_of(table: Path) -> str:
    return next((name for name in (table.stem, table.parent.name) if name in _SPLITS), "train")


@dataclass
class _Image:
    """What the rows say of an image."""

    image_id: str
    split: str
    captions: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)


class _Pairs:
    """The images with their captions, in the order found, and what cannot be used."""

    def __init__(self) -> None:
        self.images: dict[Path, _Image] = {}
        self.owners: dict[tuple[str, str], Path] = {}
        self.left_out: list[LeftOut] = []

    def add_row(self, row: Row, table: Path, split: str) -> None:
        """Add what a row of a table says; `split` is that of rows that name none."""
        where = f"{table.name}:{row.number}"
        if row.fault:
            self.left_out.append((where, row.fault, ""))
            return
        if "split" in row.values:
            split = row.values["split"][0]
        path, *others = row.values["image"]
        image_id = row.values.get("image_id", [""])[0] or path
        picture = table.parent / path
        cause = (
            "several images"
            if others
            else _fault(path, split) or self._conflict(picture, image_id, split)
        )
        if cause:
            self.left_out.append((path or where, cause, where))
            return
        for caption in row.values["caption"]:
            if caption:
                self._add(picture, image_id, split, caption, row.values.get("label", ()))
            else:
                self.left_out.append((path, "caption empty", where))

    def add_folder(self, root: Path) -> None:
        """Add the images below a folder that have a text beside them."""
        files = [path for path in sorted(root.rglob("*")) if not _is_hidden(path, root)]
        texts = {path for path in files if path.suffix == ".txt"}
        images = [path for path in files if path.suffix.lower() in _IMAGES]
        if not any(image.with_suffix(".txt") in texts for image in images):
            raise MissingError(f"{root} has no table, and no images with .txt files beside them")
        for image in images:
            name = image.relative_to(root).as_posix()
            split = name.split("/")[0] if name.split("/")[0] in _SPLITS else "train"
            text = image.with_suffix(".txt")
            captions = read_lines(text) if text in texts else []
            for caption in captions:
                self._add(image, name, split, caption, ())
            if not captions:
                cause = "caption empty" if text in texts else "no .txt beside it"
                self.left_out.append((name, cause, ""))
        for text in sorted(texts - {image.with_suffix(".txt") for image in images}):
            self.left_out.append((text.relative_to(root).as_posix(), "no image beside it", ""))

    def splits(self, shares: Mapping[str, float]) -> Splits:
        """The splits as found, less what `shares` take from train."""
        found: dict[str, list[Item]] = defaultdict(list)
        for picture, image in self.images.items():
            found[image.split].append(Item(image.image_id, picture, image.captions, image.labels))
        taken = {name: share for name, share in shares.items() if share > 0}
        twice = [name for name in taken if name in found]
        if twice:
            raise UserError(f"the data have a split {twice[0]} already: leave {twice[0]}= out")
        if taken:
            found.update(_divide(found.pop("train", []), taken))
        first = next(iter(found), "train")
        found[first] = found[first]  # is there, if empty, to tell what was left out
        return {
            name: partial(
                Split,
                items,
                None if name == "train" else _relevance(items),
                self.left_out if name == first else (),
            )
            for name, items in found.items()
        }

    def _conflict(self, picture: Path, image_id: str, split: str) -> str:
        known = self.images.get(picture)
        if known and known.split != split:
            return "image of another split"
        if known and known.image_id != image_id:
            return "image of another id"
        if self.owners.get((split, image_id), picture) != picture:
            return "id of another image"
        return ""

    def _add(
        self, picture: Path, image_id: str, split: str, caption: str, labels: Sequence[str]
    ) -> None:
        image = self.images.setdefault(picture, _Image(image_id, split))
        self.owners[split, image_id] = picture
        image.captions.append(caption)
        image.labels += [label for label in labels if label and label not in image.labels]


def _fault(path: str, split: str) -> str:
    if not path or "\0" in path:
        return "no path of an image"
    if "://" in path:
        return "a URL, no file (img2dataset fetches them)"
    if not re.fullmatch(r"\w[\w.-]*", split):
        return "split that is no name of a folder" if split else "split empty"
    return ""


def _is_hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _divide(items: Sequence[Item], shares: Mapping[str, float]) -> dict[str, list[Item]]:
    divided: dict[str, list[Item]] = {name: [] for name in ("train", *shares)}
    for item in items:
        digest = sha256(item.captions[0].casefold().encode()).digest()
        place = int.from_bytes(digest[:8]) / 2**64
        for name, share in shares.items():
            place -= share
            if place < 0:
                divided[name].append(item)
                break
        else:
            divided["train"].append(item)
    return divided


def _relevance(items: Sequence[Item]) -> Relevance | None:
    """The images of each caption, where some have several."""
    said_of: dict[str, dict[str, None]] = defaultdict(dict)
    for item in items:
        for caption in item.captions:
            said_of[caption.casefold()][item.image_id] = None
    if all(len(ids) == 1 for ids in said_of.values()):
        return None
    return {
        item.image_id: [list(said_of[caption.casefold()]) for caption in item.captions]
        for item in items
    }
