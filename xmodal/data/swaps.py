"""Captions that are false of an image, written by rules from one that is true of it.

Words of an English caption change places, as in NegCLIP (Yuksekgonul et al. 2023, arXiv
2210.01936): attributes of one class, and nouns; and relations become their opposites. The bag of
words stays the same or nearly so: what tells the texts apart is which word belongs to which. There
is no parser: a verb that is not known as one may be taken for a noun.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import combinations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words of a class may change places.
ATTRIBUTES = tuple(
    _words(line)
    for line in (
        "red orange yellow green blue purple violet pink black white grey gray brown tan beige "
        "turquoise golden silver blond blonde maroon teal navy",
        "small little tiny large big huge",
        "tall short long",
        "plain striped dotted chequered checked checkered spotted plaid",
        "wooden metal plastic glass leather brick stone steel",
        "young old elderly adult",
        "two three four five six seven eight nine ten several many",
        "wet dry muddy dusty clean dirty",
    )
)
OPPOSITES = {
    one: other
    for pair in (
        ("left of", "right of"),
        ("above", "below"),
        ("higher than", "lower than"),
        ("in front of", "behind"),
        ("on top of", "underneath"),
        ("inside", "outside"),
        ("before", "after"),
    )
    for one, other in (pair, pair[::-1])
}
_RELATION = re.compile(rf"\b({'|'.join(OPPOSITES)})\b", re.IGNORECASE)
_PARTS = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*|[\W_]+")
_ONE = _words("a an this that one another")  # before a single thing
_DETERMINERS = _ONE | _words("the his her its their my your our")
_ANY_ATTRIBUTE = frozenset[str]().union(*ATTRIBUTES)
_JOINTS = _words("and or")
# Between two nouns these mean the same from either side.
_SYMMETRIC = _JOINTS | _words(
    "next to close beside near alongside opposite together with is are both standing stand stands "
    "sitting sit sits walking walk walks running run runs lying talking talk talks dancing dance "
    "dances who which"
)
# Words that end a noun's phrase, beside verbs in -ing.
_ENDS = _DETERMINERS | _words(
    "and or with while of in on at by to from for into onto over under near next beside between "
    "among through across around against along behind above below inside outside before after "
    "during as is are was were be being has have had who which where there also it he she they him "
    "them up down off out left right front top wearing holding looks look stands stand sits sit "
    "runs run walks walk jumps jump plays play"
)
_NOUNS_IN_ING = _words(
    "building ring ceiling railing clothing wedding evening morning painting king swing wing "
    "string thing something spring crossing parking sling"
)
_LONGEST = 400  # characters whose words change places: about what encoders read of a text
Noun = tuple[int, int]  # places among the parts: the noun's own, and the first of its phrase


def swapped_captions(caption: str) -> list[str]:
    """Return the false captions that the rules make of a caption, each once, in a fixed order."""
    read, rest = caption[:_LONGEST], caption[_LONGEST:]
    parts = _PARTS.findall(read)
    made = [
        *(_swapped(parts, *places) for places in _attribute_pairs(parts)),
        *_opposites(read),
        *(_swapped(parts, *places) for places in _noun_pairs(parts)),
    ]
    return [text + rest for text in dict.fromkeys(made) if text.lower() != read.lower()]


def _attribute_pairs(parts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield the places of two attributes of a class that belong to different words."""
    for words in ATTRIBUTES:
        places = [i for i, part in enumerate(parts) if part.lower() in words]
        for first, second in combinations(places, 2):
            if _owner(parts, first) != _owner(parts, second):
                yield first, second


def _owner(parts: Sequence[str], place: int) -> str:
    """Return the words after an attribute, to the end of its phrase.

    Of "a black and white dog" both attributes belong to the dog.
    """
    after = place + 1
    while after < len(parts) and (parts[after].lower() in _JOINTS or not parts[after].isalnum()):
        after += 1
    if after < len(parts) and parts[after].lower() in _ANY_ATTRIBUTE:
        return _owner(parts, after)
    return " ".join(parts[place + 2 : _end(parts, place)]).lower()


def _opposites(caption: str) -> Iterator[str]:
    for found in _RELATION.finditer(caption):
        opposite = _cased(OPPOSITES[found[0].lower()], found[0])
        yield caption[: found.start()] + opposite + caption[found.end() :]


def _noun_pairs(parts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield the places of two nouns that change the meaning when they change places."""
    for (first, begin), (second, other) in combinations(_nouns(parts), 2):
        between = {part.lower() for part in parts[first + 1 : other - 1]} - _DETERMINERS
        symmetric = not any(word.isalnum() for word in between - _SYMMETRIC)
        bare = first == begin and second == other
        if not (symmetric and bare):  # "a man beside a woman" means "a woman beside a man"
            yield first, second


def _nouns(parts: Sequence[str]) -> Iterator[Noun]:
    """Yield the last word of every phrase that begins with a determiner."""
    for i, part in enumerate(parts):
        begin, end = i + 2, _end(parts, i)
        if part.lower() in _ONE and end - 1 > begin and _is_plural(parts[end - 1].lower()):
            end -= 2  # what follows a single thing is its verb: "a man pushes"
        if part.lower() in _DETERMINERS and begin < end:
            last = parts[end - 1].lower()
            if last not in _ANY_ATTRIBUTE or not _owner(parts, end - 1):
                yield end - 1, begin


def _is_plural(word: str) -> bool:
    """True for a plural, or a verb in the third person."""
    return word.endswith("s") and not word.endswith(("ss", "us", "is"))


def _end(parts: Sequence[str], start: int) -> int:
    """Return the place behind the last word of the phrase that `start` is in."""
    end = start + 1
    while end + 1 < len(parts) and parts[end].isspace() and not _ends(parts, end + 1, start):
        end += 2
    return end


def _ends(parts: Sequence[str], place: int, start: int) -> bool:
    word = parts[place].lower()
    is_verb = word.endswith("ing") and word not in _NOUNS_IN_ING and place > start + 2
    return word in _ENDS or is_verb


def _swapped(parts: Sequence[str], first: int, second: int) -> str:
    """Return the text with the words at two places swapped, and their articles made to fit."""
    words = list(parts)
    words[first] = _cased(parts[second], parts[first])
    words[second] = _cased(parts[first], parts[second])
    for i in (first - 2, second - 2):
        if i >= 0 and words[i].lower() in ("a", "an"):
            words[i] = _cased(_article(words[i + 2].lower()), words[i])
    return "".join(words)


def _article(word: str) -> str:
    sounds_otherwise = word.startswith(("hour", "honest", "uni", "use", "euro", "one"))
    return "an" if (word[0] in "aeiou") != sounds_otherwise else "a"


def _cased(word: str, like: str) -> str:
    """Return a word with its first letter as another one has it."""
    first = word[:1].upper() if like[:1].isupper() else word[:1].lower()
    return first + word[1:]
