"""CIRR as a source of shards."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from shards.annotations import read_json
from shards.source import Composed, Item, SourceConfig, Split, Splits, require
from xmodal.errors import UserError

LAYOUT = """
captions/cap.rc2.{train,val,test1}.json        from the branch cirr_dataset of the publication
image_splits/split.rc2.{train,val,test1}.json  where each photograph is
img_raw/{train/N,dev,test1}/*.png              the photographs, which NLVR2 gives on request
The JSON of a sample has `pairid`, `members` (the six alike photographs that recall in the subset
ranks, the source among them) and `target_soft` as published. The targets of test1 are not
published: `launch/evaluate.py --submission` writes what a server judges. Without its files
there, test1 is not made.

train, val     a photograph, what shall be other, the photograph meant
val_gallery    what val is searched in: all photographs of split.rc2.val.json
test1          a photograph and what shall be other
test1_gallery  what test1 is searched in
"""


class CirrConfig(SourceConfig):
    """CIRR: photographs of everyday life from NLVR2, the requested changes, and the targets."""

    kind: Literal["cirr"] = "cirr"
    layout: ClassVar[str] = LAYOUT
    builds: ClassVar[str] = "read"


def read(root: Path) -> Splits:
    """Find the splits train, val, val_gallery and, where they are, test1 and its gallery."""
    photographs = require(root, "img_raw")
    names = ["train", "val"]
    if (root / "captions/cap.rc2.test1.json").exists():
        names.append("test1")
    splits: Splits = {}
    for name in names:
        splits[name] = partial(_queries, root, name, photographs)
        if name != "train":
            splits[f"{name}_gallery"] = partial(_gallery, root, name, photographs)
    return splits


def _queries(root: Path, split: str, photographs: Path) -> Split:
    file = require(root, f"captions/cap.rc2.{split}.json")
    pictures = _pictures(_places(root, split), photographs)
    try:
        return Split([_query(query, pictures) for query in read_json(file)])
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is not in CIRR's format (no {error})") from None


def _query(query: Mapping[str, Any], pictures: Mapping[str, Path]) -> Composed:
    source, target = query["reference"], query.get("target_hard")
    details = {"pairid": query["pairid"], "members": query["img_set"]["members"]}
    if target is not None:
        details["target_soft"] = query["target_soft"]
    return Composed(
        source,
        pictures[source],
        " ".join(query["caption"].split()),
        target,
        None if target is None else pictures[target],
        details,
    )


def _pictures(places: Path, photographs: Path) -> dict[str, Path]:
    try:
        return {name: photographs / place for name, place in read_json(places).items()}
    except (TypeError, AttributeError):
        raise UserError(f"{places} does not map photographs to their files") from None


def _places(root: Path, split: str) -> Path:
    return require(root, f"image_splits/split.rc2.{split}.json")


def _gallery(root: Path, split: str, photographs: Path) -> Split:
    pictures = _pictures(_places(root, split), photographs)
    items = [Item(name, picture, []) for name, picture in pictures.items()]
    return Split(items, gallery=True)
