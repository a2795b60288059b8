"""Captions and the same words with an attribute of two things swapped, which is false."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

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
        values = [getattr(noun, self.attribute) for noun in self.claim.nouns]
        return sentence, _exchanged(sentence, [_places(sentence, value)[0] for value in values])


def false_wordings(claim: Claim, sentence: str, scene: Scene) -> Iterator[str]:
    """Yield the sentence of a claim with an attribute of two things swapped, where that is false.

    Attributes that the sentence has more than once stay where they are.
    """
    for attribute in (*_ATTRIBUTES, "shape"):
        values = [getattr(noun, attribute) for noun in claim.nouns]
        for first, second in combinations(range(len(values)), 2):
            places = [_places(sentence, values[i]) for i in (first, second)]
            if values[first] == values[second] or any(len(one) != 1 for one in places):
                continue
            nouns = list(claim.nouns)
            nouns[first] = replace(nouns[first], **{attribute: values[second]})
            nouns[second] = replace(nouns[second], **{attribute: values[first]})
            if not replace(claim, nouns=tuple(nouns)).holds(scene):
                yield _exchanged(sentence, [place for (place,) in places])


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


def _places(sentence: str, value: str | None) -> list[int]:
    """Return which words of a sentence say an attribute's value."""
    words = words_for(value) if value else ()
    return [i for i, word in enumerate(sentence.split()) if word.rstrip(",") in words]


def _exchanged(sentence: str, places: Sequence[int]) -> str:
    """Return a sentence with the words at two places swapped, commas left where they are."""
    words = sentence.split()
    first, second = places
    bare = words[first].rstrip(","), words[second].rstrip(",")
    words[first] = bare[1] + words[first][len(bare[0]) :]
    words[second] = bare[0] + words[second][len(bare[1]) :]
    return " ".join(_with_articles(words))


def _with_articles(words: list[str]) -> list[str]:
    """Return words with the articles that fit what follows them."""
    return [
        ("an" if after[0] in "aeiou" else "a") if word in ("a", "an") else word
        for word, after in zip(words, [*words[1:], "."], strict=True)
    ]
