"""Captions as claims about scenes: the same object is put into words and decides what is true."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations

from shards.sources.scenes.world import COLUMNS, ROWS, Scene, Thing

_WORDS = {
    "large": ("large", "big"),
    "small": ("small", "little"),
    "circle": ("circle", "disc"),
    "moon": ("moon", "crescent"),
    "ring": ("ring", "hoop"),
    "purple": ("purple", "violet"),
    "chequered": ("chequered", "checked"),
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "above": ("above", "higher than"),
    "below": ("below", "lower than"),
}
GROUND_WORDS = ("ground", "background")
_SIDES = {
    ("top", None): "at the top",
    ("bottom", None): "at the bottom",
    (None, "left"): "on the left",
    (None, "right"): "on the right",
}
_KIND = ("colour", "shape", "size")
_GROUND = ("ground", "texture")
_CONVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


@dataclass(frozen=True)
class Noun:
    """A description of one thing; what is None is left open."""

    colour: str | None = None
    shape: str | None = None
    size: str | None = None
    row: str | None = None
    column: str | None = None

    def fits(self, thing: Thing) -> bool:
        return (
            self.colour in (None, thing.colour)
            and self.shape in (None, thing.shape)
            and self.size in (None, thing.size)
            and self.row in (None, thing.row)
            and self.column in (None, thing.column)
        )


@dataclass(frozen=True)
class Claim:
    """There are things, a different one for each noun, on such a ground.

    `relation` is that of the first noun's thing to the second's.
    """

    nouns: tuple[Noun, ...]
    relation: str | None = None
    ground: str | None = None
    texture: str | None = None

    def holds(self, scene: Scene) -> bool:
        if self.ground not in (None, scene.ground) or self.texture not in (None, scene.texture):
            return False
        # Nearly all claims that do not hold end here, before things are paired with nouns.
        if not all(any(noun.fits(thing) for thing in scene.things) for noun in self.nouns):
            return False
        return any(
            all(noun.fits(thing) for noun, thing in zip(self.nouns, things, strict=True))
            and (self.relation is None or self.relation in relations(things[0], things[1]))
            for things in permutations(scene.things, len(self.nouns))
        )


def relations(first: Thing, second: Thing) -> list[str]:
    """Return the relations of the first thing to the second: by row and by column."""
    down = ROWS.index(first.row) - ROWS.index(second.row)
    right = COLUMNS.index(first.column) - COLUMNS.index(second.column)
    rows = ["above"] if down < 0 else ["below"] if down > 0 else []
    return rows + (["left of"] if right < 0 else ["right of"] if right > 0 else [])


def describe(thing: Thing) -> Noun:
    """The noun with nothing left open."""
    return Noun(thing.colour, thing.shape, thing.size, thing.row, thing.column)


def own_claims(scene: Scene, rng: random.Random) -> list[Claim]:
    """Five claims that are true of the scene, from all that can be said to a few words.

    The second is the first again, to be worded differently.
    """
    return [
        whole := _whole(scene, rng),
        whole,
        _between(scene, rng),
        _placed(scene, rng),
        _listed(scene, rng),
    ]


def _unplaced(noun: Noun) -> Noun:
    return replace(noun, row=None, column=None)


def _whole(scene: Scene, rng: random.Random) -> Claim:
    """Every thing's kind, how two of them lie, and the ground."""
    things = rng.sample(scene.things, len(scene.things))
    relation = rng.choice(relations(things[0], things[1]))
    nouns = tuple(_unplaced(describe(thing)) for thing in things)
    return Claim(nouns, relation, scene.ground, scene.texture)


def _between(scene: Scene, rng: random.Random) -> Claim:
    """Claim the relation of two things, one of them described in part."""
    first, second = rng.sample(scene.things, 2)
    nouns = [
        _unplaced(describe(first)),
        _without(_unplaced(describe(second)), rng.sample(_KIND, rng.choice((1, 2)))),
    ]
    return Claim(tuple(nouns), rng.choice(relations(first, second)))


def _placed(scene: Scene, rng: random.Random) -> Claim:
    """One thing and where it is: its cell, or a side of the picture and something of the ground."""
    noun = _without(describe(rng.choice(scene.things)), ["size"])
    sides = [side for side in (noun.row, noun.column) if side not in ("middle", "centre")]
    if len(sides) == 2 and rng.random() < 0.5:
        noun = _without(noun, [rng.choice(("row", "column"))])
    elif rng.random() < 0.5:
        return Claim((noun,))
    return Claim((noun,), **{what: getattr(scene, what) for what in rng.sample(_GROUND, 1)})


def _listed(scene: Scene, rng: random.Random) -> Claim:
    """Every thing by two of its attributes; of two things, the texture too."""
    nouns = tuple(
        _without(_unplaced(describe(thing)), [rng.choice(_KIND)])
        for thing in rng.sample(scene.things, len(scene.things))
    )
    return Claim(nouns, texture=scene.texture if len(scene.things) == 2 else None)


def _without(noun: Noun, attributes: Sequence[str]) -> Noun:
    return replace(noun, **dict.fromkeys(attributes))


def _reversed(claim: Claim) -> Claim:
    """Return the same claim from the view of the second noun."""
    assert claim.relation is not None
    first, second, *rest = claim.nouns
    return replace(claim, nouns=(second, first, *rest), relation=_CONVERSE[claim.relation])


def put_into_words(claim: Claim, rng: random.Random) -> str:
    """One of the sentences that say what the claim says."""
    if claim.relation is not None and rng.random() < 0.5:
        claim = _reversed(claim)
    first, *others = [_phrase(noun, rng) for noun in claim.nouns]
    if claim.relation is not None:
        second, *others = others
        # "Also", for "left of a star and a moon" would be left of both.
        sentence = f"{first} {word_for(claim.relation, rng)} {second}"
        sentence += "".join(f", and also {other}" for other in others)
    elif others:
        sentence = f"{', '.join([first, *others[:-1]])} and {others[-1]}"
    else:
        sentence = first
    if claim.ground is None and claim.texture is None:
        return rng.choice((sentence, f"there is {sentence}"))
    ground = _ground(claim, rng)
    return rng.choice((f"{sentence} on {ground}", f"on {ground}, {sentence}"))


def noun_words(noun: Noun, rng: random.Random) -> str:
    """The noun without article or place: "small red circle"."""
    shape = word_for(noun.shape, rng) if noun.shape else rng.choice(("object", "shape"))
    return " ".join([*(word_for(word, rng) for word in (noun.size, noun.colour) if word), shape])


def cell_words(row: str, column: str) -> str:
    """A cell of the picture: "top left", "middle right"; the one in the middle is the "centre"."""
    return "centre" if (row, column) == ("middle", "centre") else f"{row} {column}"


def word_for(meaning: str, rng: random.Random) -> str:
    """One of the words for an attribute's value or a relation."""
    return rng.choice(words_for(meaning))


def words_for(meaning: str) -> tuple[str, ...]:
    """All the words for an attribute's value or a relation."""
    return _WORDS.get(meaning, (meaning,))


def with_article(words: str) -> str:
    """The noun with "a" or "an" before it."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _phrase(noun: Noun, rng: random.Random) -> str:
    words = with_article(noun_words(noun, rng))
    if noun.row and noun.column:
        return f"{words} in the {cell_words(noun.row, noun.column)}"
    return f"{words} {_SIDES[noun.row, noun.column]}" if noun.row or noun.column else words


def _ground(claim: Claim, rng: random.Random) -> str:
    adjectives = [word_for(word, rng) for word in (claim.texture, claim.ground) if word]
    return with_article(" ".join([*adjectives, rng.choice(GROUND_WORDS)]))
