"""A user's own pairs as a source of shards."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from shards.source import Item, Reads, Relevance, SourceConfig, Split, Splits
from shards.sources.pairs.delimited import QUOTES
from shards.sources.pairs.divide import divide
from shards.sources.pairs.find import find_tables, split_of
from shards.sources.pairs.images import Image, Images
from shards.sources.pairs.tables import Row, read_rows
from xmodal.activity import activity
from xmodal.errors import UserError

LAYOUT = """
a table, .csv, .tsv, .jsonl, .json (a list of objects) or .parquet: --from is the file, or a
folder that has one, or one for each split (train.csv, val.csv, or train/metadata.csv, …), or its
parts (train-00000-of-00002.parquet, …, here or in data/; 00000.parquet, …)
  image     path of the image, from the table's folder; also image_path, filepath, file_path,
            file_name, filename, path, file, img. In .parquet the bytes themselves, as img2dataset
            (jpg) and Hugging Face's datasets (bytes and path) write them
  caption   also captions, text, title, sentence, description; a text, a list of texts, which may
            be written as JSON, or one for each row
  label     also labels, category, class; a list or one; may be missing
  image_id  may be missing: then the path is the id, or of bytes the part and row
  split     train, val, …; may be missing
or no table: images at any depth, each with a .txt of the same name beside it, a caption for each
line; the first folder is the split where it is called train, val or test

image, caption, label, image_id, split
          name other columns. Rows of the same image, the same path or equal bytes in the table,
          are one sample. Where no split is named, all is train
val, test shares of train that are taken for these splits: val=0.05 test=0.05
by        what the shares are taken by. image (the default): all captions of an image are on one
          side; where there are labels, the share is taken of each label. caption: images of the
          same first caption are on one side, labels do not count; builds of before, when there
          was no `by`, were divided so. Or the name of a column: rows of the same value are on one
          side. The same rows are divided the same each time, and rows that are added later move
          no others; where there are labels, one that is added moves at most one other
quotes    in .csv and .tsv: double (a cell may stand within "), none (" is text), auto (none where
          tabs divide the cells, else double; cells that hold whole rows, as an open quote makes
          them, are skipped)
anywhere  true: paths may lead out of the folder of --from, absolute, by .. or by links; else such
          rows are skipped

Captions that several images of a split have (but for train) are in its relevance.json. What is
not a text (an object, a list in a list, a number, true) is not used as a caption.
"""


class PairsConfig(SourceConfig):
    """Your own pairs: a table of image paths and captions, or images with .txt files beside
    them.
    """

    kind: Literal["pairs"] = "pairs"
    image: str = ""
    caption: str = ""
    label: str = ""
    image_id: str = ""
    split: str = ""
    val: float = 0.0
    test: float = 0.0
    by: str = "image"
    quotes: str = "auto"
    anywhere: bool = False
    layout: ClassVar[str] = LAYOUT
    reads: ClassVar[Reads] = "folder or table"
    builds: ClassVar[str] = "read"


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
    by: str = "image",
    quotes: str = "auto",
    anywhere: bool = False,
) -> Splits:
    """Find the splits that the rows name, or train and the shares taken from it."""
    shares = _shares(val, test)
    if quotes not in QUOTES:
        raise UserError(f"quotes={quotes}: it is one of {', '.join(QUOTES)}")
    if not by or (by != "image" and not shares):
        raise UserError(f"by={by}: it is image, caption or a column, and goes with val= or test=")
    asked = {
        "image": image, "caption": caption, "label": label, "image_id": image_id, "split": split,
        "by": "" if by in ("image", "caption") else by,
    }  # fmt: skip
    folder = root if root.is_dir() else root.parent
    images, notes = Images(folder, anywhere=anywhere), list[str]()
    tables = find_tables(root)
    for table in tables:
        for row in _shown(read_rows(table, asked, quotes, notes), table):
            images.add_row(row, table, split_of(table))
    if not tables:
        if asked["by"]:
            raise UserError(f"by={by}: {root} has no table with columns")
        images.add_folder(root)
    found: dict[str, list[Image]] = defaultdict(list)
    for each in images.all.values():
        found[each.split].append(each)
    if shares:
        notes.append(_divide(found, shares, by))
    return _splits(found, images, notes, None if anywhere else folder)


def _shown(rows: Iterator[Row], table: Path) -> Iterator[Row]:
    """Give the rows, and name the present one where that takes long."""
    number = 0
    with activity(lambda: f"row {number:,} of {table}"):
        for row in rows:
            number = row.number
            yield row


def _shares(val: float, test: float) -> dict[str, float]:
    if not (val >= 0 and test >= 0 and val + test < 1):
        raise UserError(f"val={val} test={test}: they are shares of all images, below 1 in sum")
    return {name: share for name, share in {"val": val, "test": test}.items() if share}


def _divide(found: dict[str, list[Image]], shares: Mapping[str, float], by: str) -> str:
    """Take the shares from train, and return a line that describes what came of it."""
    twice = [name for name in shares if name in found]
    if twice:
        raise UserError(f"the data have a split {twice[0]} already: remove {twice[0]}=")
    images = found.pop("train", [])
    labels = ["" if by == "caption" or not each.labels else each.labels[0] for each in images]
    divided = divide([_key(each, by) for each in images], labels, shares)
    for name, numbers in divided.items():
        if images and not numbers:
            raise UserError(
                f"the split {name} would be empty, there are only {len(images):,} images: "
                f"{' '.join(f'{each}={share}' for each, share in shares.items())} by={by}"
            )
        found[name] = [images[number] for number in numbers]
    stratified = ", the same share of each label" if any(labels) else ""
    sides = (
        f"{name} {len(side):,} images, {sum(len(each.captions) for each in side):,} captions"
        for name, side in found.items()
        if name in divided
    )
    return f"divided by {by}{stratified}: {'; '.join(sides)}"


def _key(image: Image, by: str) -> str:
    if by == "image":
        return image.key if callable(image.picture) else image.image_id
    return image.captions[0].casefold() if by == "caption" else image.group


def _splits(
    found: Mapping[str, Sequence[Image]], images: Images, notes: Sequence[str], below: Path | None
) -> Splits:
    first = next(iter(found), "train")
    return {
        name: partial(
            _split,
            name,
            found.get(name, ()),
            images.skipped if name == first else (),
            notes,
            below,
        )
        for name in found or [first]  # is there, if empty, to show what was skipped
    }


def _split(
    name: str,
    images: Sequence[Image],
    skipped: Sequence[tuple[str, str, str]],
    notes: Sequence[str],
    below: Path | None,
) -> Split:
    items = [image.item() for image in images]
    relevance = None if name == "train" else _relevance(items)
    return Split(items, relevance, skipped, notes=notes, below=below)


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
