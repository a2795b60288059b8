"""Parsing of captions, ids and labels from JSON or tables, by the same rules everywhere.

Missing values (null, NaN, an empty or blank text) are ignored; so are, as captions and ids, the
texts that programs write for them. Captions and labels that cannot be used are dropped, each with
its cause; the others stay.
"""

import json
import re
from typing import Any, NamedTuple
from unicodedata import category

from xmodal.data.decode import BadSample
from xmodal.data.limits import MAX_CAPTION_CHARACTERS, MAX_CAPTIONS

# The start and the end of a list or an object that something has written as text.
_WRITTEN = re.compile(r"""\s*(\[\s*(["'\[{].*)?|\{\s*(["'].*)?)[\]}]\s*""", re.DOTALL)
# What Python, JSON and pandas write for a missing value in a column of texts.
_NONE = frozenset(("None", "nan", "NaN", "null", "<NA>"))
_EXACT = 2**53  # whole numbers below it are the same in a float
_KINDS = {
    type(None): "null",
    bool: "true or false",
    int: "a number",
    float: "a float",
    str: "a text",
    list: "a list",
    dict: "an object",
}


class Captions(NamedTuple):
    """Usable captions of a value, and the faults of the others."""

    kept: list[str]
    places: list[int]  # of each one kept, among all, from 0
    dropped: list[str]  # the cause of each other one

    @property
    def total(self) -> int:
        """Number of captions, dropped ones included."""
        return len(self.kept) + len(self.dropped)


class FalseCaptions(NamedTuple):
    """Usable false captions of each caption, and the faults of the others."""

    kept: list[list[str]]
    dropped: list[str]


class Labels(NamedTuple):
    """Usable classes of a value, and the faults of the others."""

    kept: list[str]
    dropped: list[str]


def is_missing(value: object) -> bool:
    """Return True for a missing value: null, NaN, an empty or a blank text."""
    if isinstance(value, str):
        return _is_blank(value)
    return value is None or (isinstance(value, float) and value != value)


def captions_of(value: object, name: str = "caption") -> Captions:
    """Return the captions of a text or a list of texts, as they are written, without stripping.

    A JSON list of texts in a text, as tables have it, is parsed; a missing value gives no captions.
    Raises `BadSample` if there are too many.
    """
    found = [] if is_missing(value) or _stands_for_none(value) else _listed(value, str)
    if len(found) > MAX_CAPTIONS:
        raise BadSample(f"more than {MAX_CAPTIONS:,} captions")
    faults = [_caption_fault(one, name) for one in found]
    places = [place for place, fault in enumerate(faults) if fault is None]
    return Captions([found[place] for place in places], places, [one for one in faults if one])


def false_captions_of(value: object, captions: Captions) -> FalseCaptions:
    """Return for each usable caption those that are false of the image: one list a caption.

    A missing value gives none. A list of another form is dropped as a whole. Raises `BadSample` if
    there are too many.
    """
    if is_missing(value):
        return FalseCaptions([[] for _ in captions.kept], [])
    if not (
        isinstance(value, list)
        and len(value) == captions.total
        and all(isinstance(one, list) for one in value)
    ):
        fault = "false_captions is no list with a list for each caption"
        return FalseCaptions([[] for _ in captions.kept], [fault])
    if sum(map(len, value)) > MAX_CAPTIONS:
        raise BadSample(f"more than {MAX_CAPTIONS:,} false captions")
    found = [captions_of(one, "false caption") for one in value]
    dropped = [fault for one in found for fault in one.dropped]
    kept = [
        [one for one in found[place].kept if one != caption]
        for caption, place in zip(captions.kept, captions.places, strict=True)
    ]
    same = sum(len(found[place].kept) for place in captions.places) - sum(map(len, kept))
    return FalseCaptions(kept, dropped + ["false caption is the caption itself"] * same)


def id_of(value: object, name: str = "image_id") -> str | None:
    """Return an id, a stripped text or a whole number; None for a missing value.

    4, 4.0 and "4" are equal. Raises `BadSample` for other types, and for numbers that a float
    cannot represent exactly.
    """
    return None if is_missing(value) or _stands_for_none(value) else _plain(value, name)


def _plain(value: object, name: str) -> str:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return str(int(value))
    raise BadSample(f"{name} is no text or whole number (but {_kind(value)})")


def ids_of(value: object, name: str) -> list[str]:
    """Return the ids of a list, or of a single id; an empty list for a missing value.

    Raises `BadSample` if any of them is missing or invalid: a partial list would be wrong.
    """
    found = [] if is_missing(value) else value if isinstance(value, list) else [value]
    ids = [id_of(one, name) for one in found]
    if None in ids:
        raise BadSample(f"{name} has an id that is missing")
    return [one for one in ids if one is not None]


def labels_of(value: object) -> Labels:
    """Return the classes of a list, or of a single class; each is a text or a number.

    A list may be written as JSON. A class may be called None or null.
    """
    found = [] if is_missing(value) else _listed(value, (str, int, float))
    kept, dropped = list[str](), list[str]()
    for one in found:
        try:
            kept.append(_label(one))
        except BadSample as cause:
            dropped.append(str(cause))
    return Labels(kept, dropped)


def _label(value: object) -> str:
    if is_missing(value):
        raise BadSample("label is missing")
    label = _plain(value, "label")
    if fault := _text_fault(label, "label"):
        raise BadSample(fault)
    return label


def relevance_of(value: object) -> dict[str, list[list[str]]]:
    """Parse `relevance.json`: for each image id, one list of image ids per caption.

    Raises `BadSample` for anything else.
    """
    if not isinstance(value, dict):
        raise BadSample(f"it is no object (but {_kind(value)})")
    found: dict[str, list[list[str]]] = {}
    for image_id, captions in value.items():
        if not isinstance(captions, list) or not all(isinstance(one, list) for one in captions):
            raise BadSample(f"{image_id!r} has no list of lists of image ids")
        name = id_of(image_id)
        if name is None or name in found:
            raise BadSample(f"the image id {image_id!r} is empty or comes twice")
        found[name] = [ids_of(one, f"{image_id!r}") for one in captions]
    return found


def _listed(value: object, kinds: type | tuple[type, ...]) -> list[Any]:
    """Return the values of a list, or of one that is written as JSON and has these kinds alone."""
    if isinstance(value, list):
        return value
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return [value]
        if isinstance(found, list) and all(isinstance(one, kinds) for one in found):
            return found
    return [value]


def _caption_fault(caption: object, name: str) -> str | None:
    if not isinstance(caption, str):
        return f"{name} is no text (but {_kind(caption)})"
    if _is_blank(caption):
        return f"{name} is empty"
    if _stands_for_none(caption):
        return f"{name} is a missing value written as text"
    return _text_fault(caption, name)


def _text_fault(text: str, name: str) -> str | None:
    """Return the fault of a text that is not blank."""
    if len(text) > MAX_CAPTION_CHARACTERS:
        return f"{name} is over {MAX_CAPTION_CHARACTERS:,} characters"
    if "\0" in text:
        return f"{name} has a NUL in it"  # as UTF-16 has, and what reads past its end
    if not text.isascii() and any("\ud800" <= one <= "\udfff" for one in text):
        return f"{name} has half a surrogate pair"
    if text.lstrip()[0] in "[{" and _WRITTEN.fullmatch(text):
        return f"{name} is a list or an object written as text"
    return None


def _stands_for_none(value: object) -> bool:
    return isinstance(value, str) and value.strip() in _NONE


def _is_blank(text: str) -> bool:
    """Return True for an invisible text: spaces, control characters, byte order marks."""
    return not text[:1].isalnum() and all(
        one.isspace() or category(one) in ("Cc", "Cf") for one in text
    )


def _kind(value: object) -> str:
    if isinstance(value, float) and value != value:
        return "NaN"
    return _KINDS.get(type(value), type(value).__name__)
