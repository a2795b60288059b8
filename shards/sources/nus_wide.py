"""NUS-WIDE as a source of shards."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, ClassVar, Literal

from shards.annotations import read_lines
from shards.source import Item, SkippedSample, SourceConfig, Split, Splits, require
from xmodal.errors import UserError

if TYPE_CHECKING:
    import numpy as np

LAYOUT = """
Flickr/FOLDER/*.jpg                           the photographs
ImageList/Imagelist.txt                       their paths; rows and lines below are in this order
ImageList/TrainImagelist.txt                  those of train, 161,789
ImageList/TestImagelist.txt                   those of test, 107,859
ConceptsList/Concepts81.txt                   the concepts: the labels, in this order
Groundtruth/AllLabels/Labels_CONCEPT.txt      1 or 0 a line
NUS_WID_Tags/TagList1k.txt                    the 1,000 tags, here or in ConceptsList/
NUS_WID_Tags/AllTags1k.txt                    1 or 0 for each of them: the caption is the tags
The id of an image is that of its photograph on Flickr, the end of its name. Not read are
TrainTestLabels (a line of Labels_lake_Train.txt is broken) and All_Tags.txt (it disagrees with
AllTags1k.txt). Left out: photographs without a tag, the second of two with the same id, and both
where their labels differ. Photographs with no concept are kept, without labels.

subset=10k draws the splits train, val and test (8,000, 1,000 and 1,000) with `seed`: for each of
animal, clouds, flowers, food, grass, person, sky, toy, water and window, 1,000 photographs that
have tags and show none of the other nine. How the published 10k was drawn is not known.
"""


class NusWideConfig(SourceConfig):
    """NUS-WIDE: 269,648 photographs from Flickr with their tags and 81 concepts."""

    kind: Literal["nus_wide"] = "nus_wide"
    subset: str = "all"
    seed: int = 0
    layout: ClassVar[str] = LAYOUT
    builds: ClassVar[str] = "read"


_10K = ["animal", "clouds", "flowers", "food", "grass", "person", "sky", "toy", "water", "window"]
_10K_PER_CONCEPT = 1000
_BROKEN = 2


def read(root: Path, *, subset: str = "all", seed: int = 0) -> Splits:
    """Find the splits train and test, or draw train, val and test of the 10k subset."""
    if subset not in ("all", "10k"):
        raise UserError(f"subset={subset}: there are all and 10k")
    files = _Files(
        photographs=require(root, "Flickr"),
        names=require(root, "ImageList/Imagelist.txt"),
        concepts=require(root, "ConceptsList/Concepts81.txt"),
        labels=require(root, "Groundtruth/AllLabels"),
        tags=require(root, "NUS_WID_Tags/TagList1k.txt", "ConceptsList/TagList1k.txt"),
        marks=require(root, "NUS_WID_Tags/AllTags1k.txt"),
    )
    # Half a gigabyte of tags: read once for all splits, and only when one is made.
    everything = cache(partial(_Photographs, files))
    if subset == "10k":
        drawn = cache(lambda: _draw_10k(everything().items.values(), seed))
        return {split: partial(_drawn, split, drawn) for split in ("train", "val", "test")}
    return {split: partial(_listed, root, split, everything) for split in ("train", "test")}


@dataclass(frozen=True)
class _Files:
    photographs: Path
    names: Path
    concepts: Path
    labels: Path
    tags: Path
    marks: Path


class _Photographs:
    """The items, and why there are no others, by the path of the photograph."""

    def __init__(self, files: _Files):
        concepts = read_lines(files.concepts)
        names = _read_names(files.names)
        labels = _read_labels(files.labels, concepts, len(names))
        captions = _read_captions(files.tags, files.marks, len(names))
        self.skipped = _broken(names, labels, concepts) | _duplicates(names, labels)
        self.items = {
            name: Item(
                _flickr_id(name),
                files.photographs / name,
                [caption] if caption else [],
                [concepts[column] for column in row.nonzero()[0]],
            )
            for name, row, caption in zip(names, labels, captions, strict=True)
            if name not in self.skipped
        }


def _listed(root: Path, split: str, everything: Callable[[], _Photographs]) -> Split:
    path = require(root, f"ImageList/{split.title()}Imagelist.txt")
    photographs = everything()
    names = _read_names(path)
    for name in names:
        if name not in photographs.items and name not in photographs.skipped:
            raise UserError(f"{path} has {name}, which is not in {path.parent}/Imagelist.txt")
    return Split(
        [photographs.items[name] for name in names if name in photographs.items],
        skipped=[photographs.skipped[name] for name in names if name in photographs.skipped],
    )


def _drawn(split: str, everything: Callable[[], Mapping[str, Sequence[Item]]]) -> Split:
    return Split(everything()[split])


def _draw_10k(items: Iterable[Item], seed: int) -> dict[str, list[Item]]:
    candidates = defaultdict(list)
    for item in items:
        shown = set(item.labels) & set(_10K)
        if item.captions and len(shown) == 1:
            candidates[shown.pop()].append(item)
    splits: dict[str, list[Item]] = {"train": [], "val": [], "test": []}
    tenth = _10K_PER_CONCEPT // 10
    for concept in _10K:
        found = candidates[concept]
        if len(found) < _10K_PER_CONCEPT:
            raise UserError(
                f"only {len(found):,} photographs show {concept} and none of the other nine: "
                f"{_10K_PER_CONCEPT:,} are needed"
            )
        drawn = random.Random(f"{seed}/{concept}").sample(found, _10K_PER_CONCEPT)
        labelled = [replace(item, labels=[concept]) for item in drawn]
        splits["val"] += labelled[:tenth]
        splits["test"] += labelled[tenth : 2 * tenth]
        splits["train"] += labelled[2 * tenth :]
    return splits


def _read_names(path: Path) -> list[str]:
    return [line.replace("\\", "/") for line in read_lines(path)]


def _read_labels(folder: Path, concepts: Sequence[str], count: int) -> "np.ndarray":
    """Return the labels (photographs, concepts): 1 where one shows a concept, 0, or _BROKEN."""
    import numpy as np

    labels = np.zeros((count, len(concepts)), np.uint8)
    for column, concept in enumerate(concepts):
        path = require(folder, f"Labels_{concept}.txt")
        words = np.array(path.read_bytes().split(), bytes)
        if len(words) != count:
            raise UserError(f"{path} has {len(words):,} lines, Imagelist.txt {count:,}")
        labels[:, column] = np.where(words == b"1", 1, np.where(words == b"0", 0, _BROKEN))
    return labels


def _read_captions(tags_path: Path, marks_path: Path, count: int) -> list[str]:
    import numpy as np

    tags = np.array(read_lines(tags_path))
    captions = []
    with marks_path.open("rb") as file:
        for number, line in enumerate(file, 1):
            marks = np.frombuffer(b"".join(line.split()), np.uint8)
            if len(marks) != len(tags):
                raise UserError(
                    f"line {number:,} of {marks_path} has {len(marks):,} marks for the "
                    f"{len(tags):,} tags of {tags_path.name}"
                )
            captions.append(", ".join(tags[marks == ord("1")]))
    if len(captions) != count:
        raise UserError(f"{marks_path} has {len(captions):,} lines, Imagelist.txt {count:,}")
    return captions


def _broken(
    names: Sequence[str], labels: "np.ndarray", concepts: Sequence[str]
) -> dict[str, SkippedSample]:
    return {
        names[row]: (
            _flickr_id(names[row]),
            "label neither 0 nor 1",
            f"line {row + 1} of Labels_{concepts[column]}.txt",
        )
        for row, column in zip(*(labels == _BROKEN).nonzero(), strict=True)
    }


def _duplicates(names: Sequence[str], labels: "np.ndarray") -> dict[str, SkippedSample]:
    rows_of = defaultdict(list)
    for row, name in enumerate(names):
        rows_of[_flickr_id(name)].append(row)
    skipped = {}
    for photograph, rows in rows_of.items():
        same = all((labels[row] == labels[rows[0]]).all() for row in rows)
        cause = "listed twice" if same else "listed twice with different labels"
        for row in rows[1:] if same else rows:
            skipped[names[row]] = (photograph, cause, names[row])
    return skipped


def _flickr_id(name: str) -> str:
    return PurePosixPath(name).stem.rpartition("_")[2]
