"""MIT-States as a source of shards."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from shards.source import Composed, Item, SkippedSample, SourceConfig, Split, Splits, require
from xmodal.errors import UserError

LAYOUT = """
images/STATE THING/*.jpg  the photographs, for instance `images/old castle/image_12.jpg`
Folders without a space and those whose state is `adj` are not used. The split is TIRG's: the
things of test are its 49. A modification is one word, the state asked for.

train         from each photograph to one of each of `pairs` states of the thing, its own among
              them
test          from each photograph to each other state of the thing; target_ids are all
              photographs of that
test_gallery  the photographs of test, `STATE THING` as caption and both words as labels
"""


class MitStatesConfig(SourceConfig):
    """MIT-States: 60,000 photographs of things in states (old castle), as composed queries."""

    kind: Literal["mit_states"] = "mit_states"
    pairs: int = 2
    seed: int = 0
    layout: ClassVar[str] = LAYOUT
    builds: ClassVar[str] = "read"


# From TIRG, which all that came later compare with.
_TEST_THINGS = (
    "armor bracelet bush camera candy castle ceramic cheese clock clothes coffee fan fig fish foam "
    "forest fruit furniture garden gate glass horse island laptop lead lightning mirror orange "
    "paint persimmon plastic plate potato road rubber sand shell sky smoke steel stream table tea "
    "tomato vacuum wax wheel window wool"
)


@dataclass(frozen=True)
class _Photograph:
    image_id: str
    picture: Path
    state: str
    thing: str


class _Photographs:
    """The photographs of a split, by thing and state."""

    def __init__(self, images: Path, is_test: bool):
        self.all: list[_Photograph] = []
        self.skipped: list[SkippedSample] = []
        for folder in sorted(path for path in images.iterdir() if path.is_dir()):
            state, space, thing = folder.name.partition(" ")
            if space and state != "adj" and (thing in _TEST_THINGS.split()) == is_test:
                self._add(folder, state, thing)
        self.states: dict[str, dict[str, list[_Photograph]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for each in self.all:
            self.states[each.thing][each.state].append(each)

    def _add(self, folder: Path, state: str, thing: str) -> None:
        for file in sorted(folder.iterdir()):
            image_id = f"{folder.name}/{file.name}"
            if file.suffix == ".jpg":
                self.all.append(_Photograph(image_id, file, state, thing))
            else:
                self.skipped.append((image_id, "no .jpg", ""))


def read(root: Path, *, pairs: int = 2, seed: int = 0) -> Splits:
    """Find the splits train, test and test_gallery."""
    if pairs < 1:
        raise UserError(f"pairs={pairs}: a photograph has at least one pair")
    images = require(root, "images")
    return {
        "train": lambda: _draw_queries(_Photographs(images, is_test=False), pairs, seed),
        "test": lambda: _all_queries(_Photographs(images, is_test=True), seed),
        "test_gallery": lambda: _gallery(_Photographs(images, is_test=True)),
    }


def _draw_queries(photographs: _Photographs, pairs: int, seed: int) -> Split:
    queries = []
    for source in photographs.all:
        rng = random.Random(f"{seed}/{source.image_id}")
        states = photographs.states[source.thing]
        for state in rng.sample(sorted(states), min(pairs, len(states))):
            others = [each for each in states[state] if each is not source]
            if others:
                queries.append(_query(source, rng.choice(others)))
    return Split(queries, skipped=photographs.skipped)


def _all_queries(photographs: _Photographs, seed: int) -> Split:
    return Split(list(_each_query(photographs, seed)), skipped=photographs.skipped)


def _each_query(photographs: _Photographs, seed: int) -> Iterator[Composed]:
    for source in photographs.all:
        rng = random.Random(f"{seed}/{source.image_id}")
        for state, targets in photographs.states[source.thing].items():
            if state != source.state:
                yield _query(source, rng.choice(targets), targets)


def _query(source: _Photograph, target: _Photograph, right: Sequence[_Photograph] = ()) -> Composed:
    return Composed(
        source.image_id,
        source.picture,
        target.state,
        target.image_id,
        target.picture,
        {"target_ids": [each.image_id for each in right]} if right else {},
    )


def _gallery(photographs: _Photographs) -> Split:
    items = [
        Item(each.image_id, each.picture, [f"{each.state} {each.thing}"], [each.state, each.thing])
        for each in photographs.all
    ]
    return Split(items, skipped=photographs.skipped, gallery=True)
