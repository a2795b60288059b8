"""Composed queries from pairs of emoji whose names differ in one attribute."""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

SKIN_TONE = "skin tone"

_GENDER = re.compile(r"\b(man|woman|person|men|women|people)\b")
_COLOUR = re.compile(
    r"\b(red|orange|yellow|green|light blue|blue|purple|pink|brown|black|white|grey)\b"
)
_EXTRA = re.compile(r"(?P<thing>.+?)(: (?=facing)| (?=with))(?P<extra>(facing|with|without) [^:]+)")
_UNDONE = {"facing right": "facing left", "without snow": "with snow"}
_HAIR = {
    "red hair": "red hair",
    "curly hair": "curly hair",
    "white hair": "white hair",
    "blond hair": "blond hair",
    "bald": "a bald head",
    "beard": "a beard",
}
_OPPOSITES = {
    word: pair
    for pair in (
        ("up", "down"), ("left", "right"), ("open", "closed"), ("large", "small"),
        ("sunrise", "sunset"), ("new", "full"), ("waxing", "waning"), ("first", "last"),
        ("increasing", "decreasing"), ("upwards", "downwards"), ("high", "low"),
        ("locked", "unlocked"), ("female", "male"), ("smiling", "frowning"),
        ("raised", "lowered"), ("inbox", "outbox"), ("left-facing", "right-facing"),
        ("leftwards", "rightwards"), ("vertical", "horizontal"), ("vertically", "horizontally"),
        ("uppercase", "lowercase"), ("departure", "arrival"), ("plus", "minus"), ("hot", "cold"),
    )
    for word in pair
}  # fmt: skip
_OPPOSITE = re.compile(rf"(?<![\w-])({'|'.join(_OPPOSITES)})(?![\w-])")


@dataclass(frozen=True)
class Emoji:
    """An emoji: its code points, the same as text, its English name, and its group."""

    code: str
    characters: str
    name: str
    group: str


@dataclass(frozen=True)
class Change:
    """Change from one emoji to another that differs in one attribute, the `kind`."""

    source: Emoji
    modification: str
    target: Emoji
    kind: str


def find_changes(every: Collection[Emoji]) -> list[Change]:
    """Return all changes of one attribute between these emoji."""
    changes: dict[tuple[str, str], Change] = {}
    for kind, values in _KINDS.items():
        alike = defaultdict(list)
        for emoji in every:
            name, tone = _without_tone(emoji.name)
            for rest, value in values(name, tone):
                alike[rest].append((value, emoji))
        for variants in alike.values():
            for change in _between(variants, kind):
                # The colour of hair is a colour too: a pair counts once, as the kind named first.
                changes.setdefault((change.source.name, change.target.name), change)
    return list(changes.values())


def _between(variants: Sequence[tuple[str, Emoji]], kind: str) -> Iterator[Change]:
    for (old, source), (new, target) in permutations(variants, 2):
        # Of two that each have something extra, it takes two changes to make one the other.
        if old != new and not (kind == "extra" and old and new):
            yield Change(source, _in_words(kind, old, new), target, kind)


def _in_words(kind: str, old: str, new: str) -> str:
    if kind in ("gender", "colour", "opposite"):
        return f"change {old} to {new}"
    if new:
        return new if kind == "extra" else f"with {new}"
    return _UNDONE.get(old) or f"without {old}".replace("without with ", "without ")


def _without_tone(name: str) -> tuple[str, str]:
    """Take `dark skin tone` out of `man: dark skin tone, bald`."""
    thing, _, details = name.partition(": ")
    tones = [detail for detail in details.split(", ") if detail.endswith(SKIN_TONE)]
    others = [detail for detail in details.split(", ") if detail and detail not in tones]
    return f"{thing}: {', '.join(others)}" if others else thing, ", ".join(tones)


# Each kind of change: what the name says of it, and the rest of the name with the skin tone.
_Values = Iterator[tuple[tuple[str, ...], str]]


def _skin_tones(name: str, tone: str) -> _Values:
    if "," not in tone:
        yield (name,), tone


def _genders(name: str, tone: str) -> _Values:
    words = _GENDER.findall(name)
    if len(words) < 2:
        yield (_GENDER.sub("", name).strip(), tone), words[0] if words else "person"


def _hair(name: str, tone: str) -> _Values:
    who, _, hair = name.partition(": ")
    if who in ("man", "woman", "person") and (not hair or hair in _HAIR):
        yield (who, tone), _HAIR.get(hair, "")


def _extras(name: str, tone: str) -> _Values:
    match = _EXTRA.fullmatch(name)
    yield (match["thing"] if match else name, tone), match["extra"] if match else ""


def _colours(name: str, tone: str) -> _Values:
    for match in _COLOUR.finditer(name):
        yield (name[: match.start()], name[match.end() :], tone), match[0]


def _opposites(name: str, tone: str) -> _Values:
    for match in _OPPOSITE.finditer(name):
        pair = _OPPOSITES[match[0]]
        yield (name[: match.start()], name[match.end() :], *pair, tone), match[0]


_KINDS: dict[str, Callable[[str, str], _Values]] = {
    SKIN_TONE: _skin_tones,
    "gender": _genders,
    "hair": _hair,
    "extra": _extras,
    "colour": _colours,
    "opposite": _opposites,
}
