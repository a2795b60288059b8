"""Flickr30k: 31,783 photographs of people, five English sentences each."""

from pathlib import Path

from shards.annotations import karpathy_splits, read_token_file, splits_of
from shards.source import Item, Splits, require

LAYOUT = """
flickr30k-images/*.jpg   the photographs
and the captions, either Karpathy's with the splits train, val and test
  dataset_flickr30k.json preferred where both are
or the published ones, which make one split, all
  results_20130124.token lines NAME.jpg#0<TAB>sentence
"""


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
