"""Flickr30k as a source of shards."""

from pathlib import Path
from typing import ClassVar, Literal

from shards.annotations import karpathy_splits, read_token_file, splits_of
from shards.source import Item, SourceConfig, Splits, require

LAYOUT = """
flickr30k-images/*.jpg   the photographs
and the captions, either Karpathy's with the splits train, val and test
  dataset_flickr30k.json preferred where both are
or the published ones, which make one split, all
  results_20130124.token lines NAME.jpg#0<TAB>sentence
"""


class Flickr30kConfig(SourceConfig):
    """Flickr30k: 31,783 photographs of people, five English sentences each."""

    kind: Literal["flickr30k"] = "flickr30k"
    layout: ClassVar[str] = LAYOUT
    builds: ClassVar[str] = "read"


def read(root: Path) -> Splits:
    """Find the splits train, val and test, or without Karpathy's file the split all."""
    photographs = require(root, "flickr30k-images")
    karpathy = root / "dataset_flickr30k.json"
    if karpathy.exists():
        return karpathy_splits(karpathy, lambda image: photographs / image["filename"])
    tokens = require(root, "results_20130124.token", "dataset_flickr30k.json")
    captions = read_token_file(tokens)
    items = [Item(Path(name).stem, photographs / name, said) for name, said in captions.items()]
    return splits_of({"all": items})
