"""Composed queries: a scene, one attribute to change, and the scene so changed."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any

from shards.sources.scenes.grammar import (
    GROUND_WORDS,
    Noun,
    cell_words,
    describe,
    noun_words,
    with_article,
    word_for,
)
from shards.sources.scenes.world import (
    COLOURS,
    COLUMNS,
    GROUNDS,
    ROWS,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    Thing,
)

_VALUES: dict[str, tuple[tuple[str, ...], ...]] = {
    "colour": tuple(zip(COLOURS)),
    "shape": tuple(zip(SHAPES)),
    "size": tuple(zip(SIZES)),
    "place": tuple(product(ROWS, COLUMNS)),
    "ground": tuple(zip(GROUNDS)),
    "texture": tuple(zip(TEXTURES)),
}


@dataclass(frozen=True)
class Change:
    """Give `attribute` of the one thing that `noun` fits, or of the ground (None), a new value.

    A value is one word, but that of "place" is a row and a column.
    """

    noun: Noun | None
    attribute: str
    value: tuple[str, ...]

    def apply(self, scene: Scene) -> Scene:
        """The scene so changed; all else, looks too, stays as it is."""
        fields = ("row", "column") if self.attribute == "place" else (self.attribute,)
        new: dict[str, Any] = dict(zip(fields, self.value, strict=True))
        if self.noun is None:
            return replace(scene, **new)
        (old,) = (thing for thing in scene.things if self.noun.fits(thing))
        others = tuple(thing for thing in scene.things if thing is not old)
        return replace(scene, things=(*others, replace(old, **new)))

    def put_into_words(self, rng: random.Random) -> str:
        """One of the sentences that ask for the change."""
        name = noun_words(self.noun, rng) if self.noun else rng.choice(GROUND_WORDS)
        if self.attribute == "place":
            return f"{rng.choice(('move', 'shift'))} the {name} to the {cell_words(*self.value)}"
        word = word_for(self.value[0], rng)
        if self.attribute == "shape":
            return f"{rng.choice(('turn', 'change'))} the {name} into {with_article(word)}"
        return f"make the {name} {word}"


def draw_change(scene: Scene, rng: random.Random) -> Change:
    """A change that is possible in the scene, its attributes about equally likely."""
    while True:
        attribute = rng.choice(tuple(_VALUES))
        noun = None
        if attribute not in ("ground", "texture"):
            noun = rng.choice(list(_names(scene, rng.choice(scene.things))))
        change = Change(noun, attribute, rng.choice(_VALUES[attribute]))
        if _is_possible(scene, change):
            return change


def _names(scene: Scene, thing: Thing) -> Iterator[Noun]:
    """The nouns of colour, shape and size that fit this thing of the scene and no other."""
    whole = replace(describe(thing), row=None, column=None)
    for count in range(3):
        for left_open in combinations(("colour", "shape", "size"), count):
            noun = replace(whole, **dict.fromkeys(left_open))
            if sum(noun.fits(other) for other in scene.things) == 1:
                yield noun


def _is_possible(scene: Scene, change: Change) -> bool:
    """Return True if it changes anything and each thing keeps a cell and a kind of its own."""
    things = (changed := change.apply(scene)).things
    cells = {(thing.row, thing.column) for thing in things}
    kinds = {(thing.colour, thing.shape, thing.size) for thing in things}
    return changed != scene and len(cells) == len(kinds) == len(things)
