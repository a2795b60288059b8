"""Captions and the same words with an attribute of two things swapped, which is false."""

import random
from dataclasses import dataclass, replace

from shards.sources.scenes.grammar import Claim, describe, put_into_words, relations, words_for
from shards.sources.scenes.world import Scene

_ATTRIBUTES = ("colour", "size")


@dataclass(frozen=True)
class Swap:
    """A claim about two things of a scene, and the one with their `attribute` swapped."""

    attribute: str
    claim: Claim
    false: Claim

    def put_into_words(self, rng: random.Random) -> tuple[str, str]:
        """The sentence of the claim, and that of the false one: the same words in another order."""
        sentence = put_into_words(self.claim, rng)
        words = sentence.split()
        places = [
            next(i for i, word in enumerate(words) if word in words_for(value))
            for value in (getattr(noun, self.attribute) for noun in self.claim.nouns)
        ]
        first, second = places
        words[first], words[second] = words[second], words[first]
        return sentence, " ".join(_with_articles(words))


def draw_swap(scene: Scene, rng: random.Random) -> Swap | None:
    """A swap of one attribute, or None where what comes out is true of the scene as well."""
    things = rng.sample(scene.things, 2)
    attribute = rng.choice(_ATTRIBUTES)
    if len({getattr(thing, attribute) for thing in things}) == 1:
        return None
    left_open = {"row": None, "column": None}
    if rng.random() < 0.5:
        left_open |= {other: None for other in _ATTRIBUTES if other != attribute}
    first, second = (replace(describe(thing), **left_open) for thing in things)
    relation = rng.choice((None, *relations(*things)))
    values = {attribute: getattr(second, attribute)}, {attribute: getattr(first, attribute)}
    false = replace(first, **values[0]), replace(second, **values[1])
    swap = Swap(attribute, Claim((first, second), relation), Claim(false, relation))
    return None if swap.false.holds(scene) else swap


def _with_articles(words: list[str]) -> list[str]:
    """Return words with the articles that fit what follows them."""
    return [
        ("an" if after[0] in "aeiou" else "a") if word in ("a", "an") else word
        for word, after in zip(words, [*words[1:], "."], strict=True)
    ]
