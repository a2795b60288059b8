"""XMedia's published features as a source of shards."""

from collections import defaultdict, deque
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from shards.matlab import read_matrices
from shards.source import Item, SkippedSample, SourceConfig, Split, Splits, require
from xmodal.errors import UserError

LAYOUT = """
XMediaFeatures.mat   a matrix of features a row for each split, tr and te, and their classes
  I_tr_CNN, I_tr     5,000 images in all; trImgCat
  T_tr_BOW, T_tr     5,000 texts; trTxtCat
  V_tr_CNN, V_tr     500 videos; trVidCat
  A_tr               1,000 sounds; trAudCat
  d3_tr              500 solids; tr3dCat
  I_te_CNN, …        a fifth of each, to test
Images and texts are not published as pairs, but their rows come in the same order of classes: the
first image of a class goes with its first text, and so on, which is row by row. The options say
what stands for image and text, as `image=V_CNN text=A`; rows without a partner are skipped.
Labels are the numbers of the classes, from 1. The splits are train and test.
"""


class XmediaConfig(SourceConfig):
    """XMedia's published features: of images, texts, videos, sounds and solids in 20 classes."""

    kind: Literal["xmedia"] = "xmedia"
    image: str = "I_CNN"
    text: str = "T_BOW"
    layout: ClassVar[str] = LAYOUT
    builds: ClassVar[str] = "read"


_SHORT = {"train": "tr", "test": "te"}
_CLASSES = {"I": "Img", "T": "Txt", "V": "Vid", "A": "Aud", "d3": "3d"}
_FEATURES = ("I_CNN", "I", "T_BOW", "T", "V_CNN", "V", "A", "d3")


def read(root: Path, *, image: str = "I_CNN", text: str = "T_BOW") -> Splits:
    """Find the splits train and test."""
    for option, value in {"image": image, "text": text}.items():
        if value not in _FEATURES:
            raise UserError(f"{option}={value}: there are {', '.join(_FEATURES)}")
    path = require(root, "XMediaFeatures.mat")
    return {split: partial(_split, path, split, image, text) for split in _SHORT}


def _split(path: Path, split: str, image: str, text: str) -> Split:
    images, texts = (_Rows(path, _SHORT[split], features) for features in (image, text))
    pairs, skipped = _pair(images, texts)
    items = [
        Item(
            f"{split}-{row:05d}",
            None,
            labels=[str(images.classes[row])],
            image_features=images.features[row],
            text_features=texts.features[partner, None],
        )
        for row, partner in pairs
    ]
    return Split(items, skipped=skipped)


class _Rows:
    """The features of one kind in one split, and the class of each row."""

    def __init__(self, path: Path, short: str, features: str):
        kind, underscore, rest = features.partition("_")
        self.name = f"{kind}_{short}{underscore}{rest}"
        self.features, classes = read_matrices(path, [self.name, f"{short}{_CLASSES[kind]}Cat"])
        self.classes: list[int] = [int(each) for each in classes.ravel()]
        if len(self.features) != len(self.classes):
            raise UserError(
                f"{path} has {len(self.features):,} rows of {self.name}, but the classes of "
                f"{len(self.classes):,}"
            )

    def skipped(self, rows: Sequence[int]) -> list[SkippedSample]:
        """Return these rows as skipped, without a partner."""
        cause = "no partner of its class"
        return [(f"{self.name} row {row}", cause, f"class {self.classes[row]}") for row in rows]


def _pair(images: _Rows, texts: _Rows) -> tuple[list[tuple[int, int]], list[SkippedSample]]:
    waiting: dict[int, deque[int]] = defaultdict(deque)
    for row, its_class in enumerate(texts.classes):
        waiting[its_class].append(row)
    pairs, single = [], []
    for row, its_class in enumerate(images.classes):
        if waiting[its_class]:
            pairs.append((row, waiting[its_class].popleft()))
        else:
            single.append(row)
    unread = sorted(row for rows in waiting.values() for row in rows)
    return pairs, images.skipped(single) + texts.skipped(unread)
