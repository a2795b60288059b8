"""Fashion200k as a source of shards."""

import random
from collections import defaultdict
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from shards.annotations import read_lines
from shards.source import Composed, Item, SkippedSample, SourceConfig, Split, Splits, require
from xmodal.errors import UserError

LAYOUT = """
women/CATEGORY/SUBCATEGORY/PRODUCT/*.jpeg  the photographs
labels/CATEGORY_SPLIT_detect_all.txt       lines women/….jpeg<TAB>score<TAB>name; CATEGORY is
                                           dress, jacket, pants, skirt and top, SPLIT train and test
test_queries.txt                           TIRG's: lines SOURCE TARGET, paths as in labels/
As in TIRG, the modification is `replace A with B` for the first words that differ, and . ? & *
within names are spelt dotmark, questionmark, andmark, starmark.

train         from each photograph that can be modified to `pairs` others, whose names differ in
              one word
test          the published queries; target_ids are all that have the name asked for
test_gallery  the photographs of test, their names as captions, their categories as labels
"""


class Fashion200kConfig(SourceConfig):
    """Fashion200k: 200,000 photographs of clothes with their product names, as composed queries."""

    kind: Literal["fashion200k"] = "fashion200k"
    pairs: int = 4
    seed: int = 0
    layout: ClassVar[str] = LAYOUT
    builds: ClassVar[str] = "read"


_CATEGORIES = ("dress", "jacket", "pants", "skirt", "top")
_MARKS = {".": "dotmark", "?": "questionmark", "&": "andmark", "*": "starmark"}


def read(root: Path, *, pairs: int = 4, seed: int = 0) -> Splits:
    """Find the splits train, test and test_gallery."""
    if pairs < 1:
        raise UserError(f"pairs={pairs}: a photograph has at least one pair")
    require(root, "women")
    return {
        "train": lambda: _draw_queries(_Catalogue(root, "train"), pairs, seed),
        "test": lambda: _published_queries(
            _Catalogue(root, "test"), require(root, "test_queries.txt")
        ),
        "test_gallery": lambda: _gallery(_Catalogue(root, "test")),
    }


class _Catalogue:
    """The photographs of a split: the name of each, by its path."""

    def __init__(self, root: Path, split: str):
        files = [require(root, f"labels/{name}_{split}_detect_all.txt") for name in _CATEGORIES]
        self.names: dict[str, str] = {}
        self.skipped: list[SkippedSample] = []
        for file in files:
            for line in read_lines(file):
                self._add(line, file)
        self.pictures = {path: root / path for path in self.names}

    def _add(self, line: str, file: Path) -> None:
        path, *others = line.split("\t")
        if len(others) != 2:
            self.skipped.append((line[:80], "no line PATH<TAB>score<TAB>name", file.name))
        elif path in self.names:
            self.skipped.append((path, "listed twice", file.name))
        else:
            self.names[path] = _spelt(others[1])

    @cached_property
    def by_name(self) -> Mapping[str, list[str]]:
        """Return the photographs of each name."""
        by_name = defaultdict(list)
        for path, name in self.names.items():
            by_name[name].append(path)
        return by_name

    def query(self, source: str, target: str, details: Mapping[str, object]) -> Composed:
        modification = _modification(self.names[source], self.names[target])
        pictures = self.pictures
        return Composed(source, pictures[source], modification, target, pictures[target], details)


def _draw_queries(catalogue: _Catalogue, pairs: int, seed: int) -> Split:
    siblings = _siblings(catalogue.by_name)
    queries = []
    for source, name in catalogue.names.items():
        rng = random.Random(f"{seed}/{source}")  # its own: the same whatever else is there
        # What is drawn twice counts once: a photograph of few siblings has fewer than `pairs`.
        targets = dict.fromkeys(
            rng.choice(catalogue.by_name[rng.choice(rng.choice(siblings[name]))])
            for _ in range(pairs if name in siblings else 0)
        )
        queries += [catalogue.query(source, target, {}) for target in targets]
    return Split(queries, skipped=catalogue.skipped)


def _siblings(names: Mapping[str, object]) -> dict[str, list[list[str]]]:
    """Return, for each name, lists of names that differ in one word, one list per word."""
    children = defaultdict(list)
    for name in names:
        for parent in dict.fromkeys(_without(word, name) for word in name.split()):
            children[parent].append(name)
    siblings = defaultdict(list)
    for family in children.values():
        for name in family if len(family) > 1 else ():
            siblings[name].append([other for other in family if other != name])
    return dict(siblings)


def _without(word: str, name: str) -> str:
    # TIRG takes the letters out wherever they stand, within longer words too.
    return name.replace(word, "").replace("  ", " ").strip()


def _published_queries(catalogue: _Catalogue, file: Path) -> Split:
    queries, skipped = [], list(catalogue.skipped)
    for line in read_lines(file):
        paths = line.split()
        if len(paths) != 2 or not catalogue.names.keys() >= set(paths):
            skipped.append((line, "query of photographs that are not in labels/", file.name))
            continue
        source, target = paths
        right = catalogue.by_name[catalogue.names[target]]
        queries.append(catalogue.query(source, target, {"target_ids": right}))
    return Split(queries, skipped=skipped)


def _gallery(catalogue: _Catalogue) -> Split:
    items = [
        Item(path, catalogue.pictures[path], [name], [path.split("/")[1]])
        for path, name in catalogue.names.items()
    ]
    return Split(items, skipped=catalogue.skipped, gallery=True)


def _spelt(name: str) -> str:
    for mark, word in _MARKS.items():
        name = name.replace(mark, word)
    return name.strip()


def _modification(source: str, target: str) -> str:
    return f"replace {_first_other(source, target)} with {_first_other(target, source)}"


def _first_other(name: str, other: str) -> str:
    """The first word that the other name lacks; the last, where it has them all."""
    words = name.split()
    return next((word for word in words if word not in other.split()), words[-1])
