"""MS COCO captions as a source of shards."""

from collections import defaultdict
from functools import cache, partial
from pathlib import Path
from typing import ClassVar, Literal

from shards.annotations import NUM_EVALUATED_CAPTIONS, karpathy_splits, read_json, stripped
from shards.source import Item, MissingError, SourceConfig, Split, Splits, require
from xmodal.errors import UserError

LAYOUT = """
train2014/*.jpg, val2014/*.jpg        the photographs, here or in images/
and the captions, either Karpathy's splits, restval being part of train
  dataset_coco.json                   preferred where both are; here or in annotations/
or the official ones, with the splits train and val (each may be missing)
  annotations/captions_train2014.json, annotations/captions_val2014.json
  or those of 2017 with train2017/*.jpg, val2017/*.jpg
Images of val and test keep their first five captions.
"""


class CocoConfig(SourceConfig):
    """MS COCO captions: 123,000 photographs of everyday scenes, five English sentences each."""

    kind: Literal["coco"] = "coco"
    layout: ClassVar[str] = LAYOUT
    builds: ClassVar[str] = "read"


_KARPATHY = ("dataset_coco.json", "annotations/dataset_coco.json")
_OFFICIAL = ("train", "val")


def read(root: Path) -> Splits:
    """Find Karpathy's splits train, val and test, or the official train and val."""
    karpathy = [root / name for name in _KARPATHY if (root / name).exists()]
    if karpathy:
        photographs = cache(partial(_photographs, root))
        return karpathy_splits(
            karpathy[0], lambda image: photographs(image["filepath"]) / image["filename"]
        )
    for year in ("2014", "2017"):
        files = {split: root / f"annotations/captions_{split}{year}.json" for split in _OFFICIAL}
        found = {split: file for split, file in files.items() if file.exists()}
        if found:
            return {
                split: partial(_official_split, file, root, split + year)
                for split, file in found.items()
            }
    raise MissingError(f"{root} has no dataset_coco.json or annotations/captions_train2014.json")


def _photographs(root: Path, name: str) -> Path:
    return require(root, name, f"images/{name}")


def _official_split(file: Path, root: Path, folder: str) -> Split:
    photographs = _photographs(root, folder)
    document = read_json(file)
    captions = defaultdict(list)
    try:
        for annotation in document["annotations"]:
            captions[annotation["image_id"]].append(stripped(annotation["caption"]))
        limit = None if folder.startswith("train") else NUM_EVALUATED_CAPTIONS
        return Split(
            [
                Item(
                    str(image["id"]),
                    photographs / image["file_name"],
                    captions[image["id"]][:limit],
                )
                for image in document["images"]
            ]
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is not in COCO's captions format (no {error})") from None
