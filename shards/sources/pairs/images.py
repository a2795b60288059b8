"""Collection of images with the captions and labels of their rows or text files."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shards.files import OUTSIDE, Skipped, read_file
from shards.source import Item, MissingError, Picture, SkippedSample
from shards.sources.pairs.find import SPLITS
from shards.sources.pairs.parquet import StoredImage
from shards.sources.pairs.tables import Row
from xmodal.data.decode import BadSample
from xmodal.data.fields import Captions, captions_of, id_of, is_missing, labels_of
from xmodal.data.limits import MAX_TEXT_BYTES
from xmodal.data.samples import captions_in

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_FOLDER = re.compile(r"\w[\w.-]*")


@dataclass
class Image:
    """An image with the captions and labels of all rows that have its `key`."""

    key: str  # its place or, where it lies in a table, its digest
    picture: Picture
    image_id: str
    split: str
    group: str  # the value of the column that the splits are divided by
    captions: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)

    def item(self) -> Item:
        return Item(self.image_id, self.picture, self.captions, self.labels)


class Images:
    """Images with their captions, in order of appearance, and skipped ones.

    Paths that lead out of the folder `root` are not used, unless `anywhere`.
    """

    def __init__(self, root: Path, *, anywhere: bool) -> None:
        self.root = None if anywhere else _place(root)
        self.all: dict[str, Image] = {}
        self.skipped: list[SkippedSample] = []
        self._owners: dict[tuple[str, str], str] = {}

    def add_row(self, row: Row, table: Path, split: str) -> None:
        """Add what a row of a table says; `split` is that of rows that name none."""
        where = f"{table.name}:{row.number}"
        if row.fault:
            self.skipped.append((where, row.fault, row.detail))
            return
        name = _name(row.values["image"]) or where
        try:
            image = self._image(row, table, where, split)
            captions = captions_of(row.values["caption"])
            labels = labels_of(row.values.get("label"))
        except BadSample as error:
            self.skipped.append((name, str(error), where))
            return
        dropped = captions.dropped or ([] if captions.kept else ["caption is missing"])
        self.skipped += [(name, fault, where) for fault in (*dropped, *labels.dropped)]
        if captions.kept:
            self._add(image, [caption.strip() for caption in captions.kept], labels.kept)

    def add_folder(self, root: Path) -> None:
        """Add the images below a folder that have a text beside them."""
        files = [path for path in sorted(root.rglob("*")) if not _is_hidden(path, root)]
        texts = {path for path in files if path.suffix == ".txt"}
        images = [path for path in files if path.suffix.lower() in _SUFFIXES]
        if not any(image.with_suffix(".txt") in texts for image in images):
            raise MissingError(f"{root} has no table, and no images with .txt files beside them")
        for path in images:
            name = path.relative_to(root).as_posix()
            split = name.split("/")[0] if name.split("/")[0] in SPLITS else "train"
            text = path.with_suffix(".txt")
            if text not in texts:
                self.skipped.append((name, "no .txt beside it", ""))
                continue
            captions = _captions_beside(text)
            if captions.kept:
                self._add(Image(_place(path), path, name, split, ""), captions.kept, [])
            self.skipped += [(name, fault, text.name) for fault in captions.dropped]
        for text in sorted(texts - {image.with_suffix(".txt") for image in images}):
            self.skipped.append((text.relative_to(root).as_posix(), "no image beside it", ""))

    def _image(self, row: Row, table: Path, where: str, split: str) -> Image:
        """Return the image that a row is of; raises `BadSample`."""
        values = row.values
        if "split" in values:
            split = _folder(values["split"])
        group = id_of(values["by"], "the column of by=") if "by" in values else ""
        if group is None:
            raise BadSample("no value in the column of by=")
        image_id = id_of(values.get("image_id"))
        _refuse_half_pairs(image_id, group)
        cell = _one(values["image"])
        if isinstance(cell, StoredImage):
            image = Image(cell.digest, cell, image_id or where, split, group)
        else:
            place = self._checked(cell, table)
            image = Image(place, Path(place), image_id or cell.strip(), split, group)
        known = self.all.get(image.key)
        if known and image_id is None:
            image.image_id = known.image_id
        self._refuse_conflict(image, known)
        return known or image

    def _checked(self, path: Any, table: Path) -> str:
        """Return the place of the file that a cell names; raises `BadSample`."""
        if is_missing(path) or path == b"":
            raise BadSample("no image")
        if not isinstance(path, str):
            raise BadSample(f"image is not a path (but of type {type(path).__name__})")
        if "\0" in path:
            raise BadSample("no image")
        if "://" in path:
            raise BadSample("a URL, not a file (img2dataset fetches them)")
        _refuse_half_pairs(path)
        place = _place(table.parent / path.strip())
        if self.root is not None and not Path(place).is_relative_to(self.root):
            raise BadSample(OUTSIDE)
        return place

    def _refuse_conflict(self, image: Image, known: Image | None) -> None:
        if known and known.split != image.split:
            raise BadSample("image of another split")
        if known and known.image_id != image.image_id:
            raise BadSample("image of another id")
        if known and known.group != image.group:
            raise BadSample("image of another value of by=")
        if self._owners.get((image.split, image.image_id), image.key) != image.key:
            raise BadSample("id of another image")

    def _add(self, image: Image, captions: Sequence[str], labels: Sequence[str]) -> None:
        self.all[image.key] = image
        self._owners[image.split, image.image_id] = image.key
        image.captions += captions
        image.labels += [label for label in labels if label not in image.labels]


def _one(cell: Any) -> Any:
    if not isinstance(cell, list):
        return cell
    if all(isinstance(one, int) for one in cell[:2]) and cell:
        raise BadSample("image is a list of numbers, not bytes")
    if len(cell) > 1:
        raise BadSample("several images")
    return cell[0] if cell else None


def _name(cell: Any) -> str:
    """Return what the table calls an image, if anything."""
    one = cell[0] if isinstance(cell, list) and cell else cell
    name = one.path if isinstance(one, StoredImage) else one
    return name.strip() if isinstance(name, str) else ""


def _captions_beside(text: Path) -> Captions:
    """Read a text file as that of a sample; one that cannot be read costs its image alone."""
    try:
        return captions_in(read_file(text, limit=MAX_TEXT_BYTES))
    except Skipped as error:
        return Captions([], [], [f"text {error.cause}"])
    except BadSample as error:
        return Captions([], [], [str(error)])


def _folder(value: Any) -> str:
    split = id_of(value, "split")
    if split is None:
        raise BadSample("split empty")
    if not _FOLDER.fullmatch(split):
        raise BadSample("split that is no name of a folder")
    return split


def _refuse_half_pairs(*texts: str | None) -> None:
    if any(text and _HALF_PAIR.search(text) for text in texts):
        raise BadSample("not Unicode")


def _place(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - links are followed when the file is read


def _is_hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)
