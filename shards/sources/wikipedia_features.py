"""Wikipedia's published features as a source of shards."""

from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from shards.matlab import read_matrices
from shards.source import Item, SourceConfig, Split, Splits, require
from shards.sources.wikipedia import SPLITS, read_list
from xmodal.errors import UserError

LAYOUT = """
of the folder wikipedia_dataset as published
  raw_features.mat             I_tr and I_te: bags of 128 visual words, an image a row;
                               T_tr and T_te: shares of 10 topics, a section a row
  trainset_txt_img_cat.list    lines TEXT<TAB>IMAGE<TAB>number of the class, from 1, in the order
  testset_txt_img_cat.list     of the rows
Labels are the classes; the id of an image is that of its section, TEXT. The splits are train and
test.
"""


class WikipediaFeaturesConfig(SourceConfig):
    """Wikipedia's published features: of 2,866 images and their sections, in 10 classes."""

    kind: Literal["wikipedia_features"] = "wikipedia_features"
    layout: ClassVar[str] = LAYOUT
    builds: ClassVar[str] = "read"


_SHORT = {"train": "tr", "test": "te"}


def read(root: Path) -> Splits:
    """Find the splits train and test."""
    path = require(root, "raw_features.mat")
    return {split: partial(_split, root, path, split) for split in SPLITS}


def _split(root: Path, path: Path, split: str) -> Split:
    pairs = read_list(root, split)
    names = [f"{kind}_{_SHORT[split]}" for kind in "IT"]
    images, texts = read_matrices(path, names)
    for name, matrix in zip(names, (images, texts), strict=True):
        if len(matrix) != len(pairs):
            raise UserError(
                f"{path} has {len(matrix):,} rows of {name}, but {split}set_txt_img_cat.list "
                f"{len(pairs):,} lines"
            )
    return Split(
        [
            Item(pair.text, None, [], [pair.category], image, text[None])
            for pair, image, text in zip(pairs, images, texts, strict=True)
        ]
    )
