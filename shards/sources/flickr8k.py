"""Flickr8k as a source of shards."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import ClassVar, Literal

from shards.annotations import karpathy_splits, read_lines, read_token_file
from shards.languages import with_translations
from shards.source import Item, SourceConfig, Split, Splits, require

LAYOUT = """
Flicker8k_Dataset/*.jpg      the photographs (the folder is spelt so)
and the captions with their splits, either Karpathy's
  dataset_flickr8k.json      preferred where both are
or the published ones
  Flickr8k.token.txt         lines NAME.jpg#0<TAB>sentence
  Flickr_8k.trainImages.txt  names of the 6,000 images to train on
  Flickr_8k.devImages.txt    1,000: the split val
  Flickr_8k.testImages.txt   1,000; may be missing
translations=zh:flickr8kzhc.caption.txt adds the texts of a further token file under zh of each
sample's JSON, such as those of Flickr8k-CN (lines NAME.jpg#zhc#0 sentence); several with commas
"""


class Flickr8kConfig(SourceConfig):
    """Flickr8k: 8,000 photographs of people and dogs, five English sentences each."""

    kind: Literal["flickr8k"] = "flickr8k"
    translations: str = ""
    layout: ClassVar[str] = LAYOUT
    builds: ClassVar[str] = "read"


_LISTS = {"train": "trainImages", "val": "devImages", "test": "testImages"}


def read(root: Path, *, translations: str = "") -> Splits:
    """Find the splits train, val and test."""
    return with_translations(_english(root), root, translations)


def _english(root: Path) -> Splits:
    photographs = require(root, "Flicker8k_Dataset")
    karpathy = root / "dataset_flickr8k.json"
    if karpathy.exists():
        return karpathy_splits(karpathy, lambda image: photographs / image["filename"])
    tokens = require(root, "Flickr8k.token.txt", "dataset_flickr8k.json")
    captions = cache(partial(read_token_file, tokens))
    lists = {split: f"Flickr_8k.{name}.txt" for split, name in _LISTS.items()}
    if not (root / lists["test"]).exists():
        del lists["test"]
    return {
        split: partial(_listed, root, name, photographs, captions) for split, name in lists.items()
    }


def _listed(
    root: Path, name: str, photographs: Path, captions: Callable[[], Mapping[str, Sequence[str]]]
) -> Split:
    images = read_lines(require(root, name))
    return Split(
        [Item(Path(image).stem, photographs / image, captions().get(image, [])) for image in images]
    )
