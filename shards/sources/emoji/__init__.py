"""Emoji as a source of shards."""

import io
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from shards.annotations import read_json
from shards.by_caption import split_of
from shards.languages import language_codes
from shards.source import (
    Composed,
    Item,
    Picture,
    SkippedSample,
    SourceConfig,
    Split,
    Splits,
    require,
)
from shards.sources.emoji.change import SKIN_TONE, Change, Emoji, find_changes
from xmodal.errors import UserError

if TYPE_CHECKING:
    from PIL import Image, ImageFont

LAYOUT = """
usr/share/fonts/truetype/noto/NotoColorEmoji.ttf  the drawings, as Debian's package holds them:
  apt-get download fonts-noto-color-emoji && dpkg -x fonts-noto-color-emoji_*.deb DIR
package/{en,…}/data.json, package/meta/groups.json  the names, as npm's package holds them:
  npm pack emojibase-data@17.0.0 && tar -xzf emojibase-data-17.0.0.tgz -C DIR
package/img/twitter/64/*.png  a second style of drawing (optional), as npm's package holds it:
  npm pack emoji-datasource-twitter@16.0.0
  tar -xzf emoji-datasource-twitter-16.0.0.tgz -C DIR package/img/twitter/64
Left out: emoji that the font has not, drawings that are the same for several names, and parts
of others (letters of flags, skin tones). Labels are the groups. `language` is a folder of names,
and languages=zh,de adds the names of further folders under their codes in each sample's JSON;
composed queries are English. Emoji that a chain of changes connects are one concept: they are in
the same of train, val and test (80, 10, 10 %).

train, val, test                             the drawings with their names
composed_train, composed_val, composed_test  a drawing, a change (skin tone, gender, hair,
                                             something extra, colour, opposite), the drawing so
                                             changed; `kind` in the JSON says which. Three in four
                                             change the skin tone: `skin_tones` of them are drawn
composed_val_gallery, composed_test_gallery  what those are searched in: the drawings of val, test
styles_train, styles_val, styles_test        each emoji that has both in both styles, its name being
                                             caption and label; with the second style alone
"""


class EmojiConfig(SourceConfig):
    """Emoji: 3,760 drawings with their names in 28 languages, and composed queries between them."""

    kind: Literal["emoji"] = "emoji"
    language: str = "en"
    languages: str = ""
    skin_tones: int = 600
    seed: int = 0
    layout: ClassVar[str] = LAYOUT
    builds: ClassVar[str] = "read"


# Of each further language the name of each emoji, by its code.
Names = Mapping[str, Mapping[str, str]]
_FONT = "usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
_FONT_SIZE = 109  # the one size of its drawings
_SECOND_STYLE = "package/img/twitter/64"
_ONE = "\N{GRINNING FACE}"  # as wide and as high as any
_UNASSIGNED = "\U0010ffff"  # is drawn as all that the font has not
_COMPONENTS = "component"  # the group of skin tones and hair styles


def read(
    root: Path,
    *,
    language: str = "en",
    languages: str = "",
    skin_tones: int = 600,
    seed: int = 0,
) -> Splits:
    """Find the plain splits, the composed ones and their galleries."""
    font = require(root, _FONT)
    english = require(root, "package/en/data.json")
    groups = require(root, "package/meta/groups.json")
    names = _read_names(require(root, f"package/{language}/data.json"))
    others = {
        code: _read_names(require(root, f"package/{code}/data.json"))
        for code in language_codes("languages", languages)
    }
    if skin_tones < 0:
        raise UserError(f"skin_tones={skin_tones}: as many queries of skin tone as are kept")
    known, skipped = _usable(_read_emoji(english, groups), font)
    changes = find_changes(known)
    concepts = _concepts(known, changes)
    drawn = _drawn(changes, skin_tones, seed)
    second = _second_style(root / _SECOND_STYLE)
    splits: Splits = {}
    for name in ("train", "val", "test"):
        own = [emoji for emoji in known if split_of(concepts[emoji.code]) == name]
        items = [_item(emoji, names, others, font) for emoji in own]
        codes = {emoji.code for emoji in own}
        queries = [_query(change, font) for change in drawn if change.source.code in codes]
        splits[name] = partial(Split, items, skipped=skipped if name == "train" else ())
        splits[f"composed_{name}"] = partial(Split, queries)
        if name != "train":
            splits[f"composed_{name}_gallery"] = partial(Split, items, gallery=True)
        if second:
            both = [item for emoji in own for item in _both_styles(emoji, names, font, second)]
            lacking = [
                (emoji.name, "not in the second style", emoji.code)
                for emoji in own
                if _bare(emoji.code) not in second
            ]
            splits[f"styles_{name}"] = partial(Split, both, skipped=lacking)
    return splits


def _read_emoji(file: Path, groups: Path) -> list[Emoji]:
    try:
        group_names = read_json(groups)["groups"]
        return [
            Emoji(entry["hexcode"], entry["emoji"], entry["label"], _group(entry, group_names))
            for entry in _entries(read_json(file))
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} or {groups} is not of emojibase-data (no {error})") from None


def _read_names(file: Path) -> dict[str, str]:
    """The name of each emoji, by its code."""
    try:
        return {entry["hexcode"]: entry["label"] for entry in _entries(read_json(file))}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is not of emojibase-data (no {error})") from None


def _entries(document: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for entry in document:
        yield entry
        yield from entry.get("skins", [])


def _group(entry: Mapping[str, Any], names: Mapping[str, str]) -> str:
    return names[str(entry["group"])] if "group" in entry else _COMPONENTS


def _usable(every: Sequence[Emoji], font: Path) -> tuple[list[Emoji], list[SkippedSample]]:
    """The emoji that the font draws as one thing, which no other name has too."""
    unknown = _draw(font, _UNASSIGNED).tobytes()
    # What the font cannot join is drawn as its parts, one beside the other.
    joined = {
        emoji.code: _draw(font, emoji.characters).tobytes()
        for emoji in every
        if _load(font).getlength(emoji.characters) <= _load(font).getlength(_ONE)
    }
    names = Counter(joined.values())
    known, skipped = [], []
    for emoji in every:
        drawing = joined.get(emoji.code, unknown)
        if emoji.group == _COMPONENTS:
            skipped.append((emoji.name, "part of other emoji", emoji.code))
        elif drawing == unknown:
            skipped.append((emoji.name, "not in this font", emoji.code))
        elif names[drawing] > 1:
            skipped.append((emoji.name, "drawn as another", emoji.code))
        else:
            known.append(emoji)
    return known, skipped


def draw(font: Path, characters: str) -> bytes:
    """Return the drawing on white, as PNG."""
    file = io.BytesIO()
    _draw(font, characters).save(file, "PNG")
    return file.getvalue()


def _draw(font: Path, characters: str) -> "Image.Image":
    from PIL import Image, ImageDraw

    box = _load(font).getbbox(_ONE)
    image = Image.new("RGB", (round(box[2]), round(box[3])), "white")
    ImageDraw.Draw(image).text((0, 0), characters, font=_load(font), embedded_color=True)
    return image


@lru_cache
def _load(font: Path) -> "ImageFont.FreeTypeFont":
    from PIL import ImageFont, features

    if not features.check("raqm"):
        raise UserError("Pillow is without raqm, which joins emoji: install Pillow's own wheel")
    try:
        return ImageFont.truetype(font, _FONT_SIZE, layout_engine=ImageFont.Layout.RAQM)
    except OSError as error:
        raise UserError(f"{font} is no font with drawings of {_FONT_SIZE}: {error}") from None


def _concepts(every: Sequence[Emoji], changes: Iterable[Change]) -> dict[str, str]:
    """For each emoji's code a name for all that changes lead to from it, and from those on."""
    neighbours: dict[str, list[Emoji]] = {emoji.code: [] for emoji in every}
    for change in changes:  # each is there in both directions
        neighbours[change.source.code].append(change.target)
    concepts: dict[str, str] = {}
    for emoji in every:
        reached = [] if emoji.code in concepts else [emoji]
        while reached:
            code = reached.pop().code
            concepts[code] = concepts.get(emoji.code, emoji.name)
            reached += [other for other in neighbours[code] if other.code not in concepts]
    return concepts


def _drawn(changes: Sequence[Change], skin_tones: int, seed: int) -> list[Change]:
    """All changes, but of those of skin tone only so many."""
    tones = [number for number, change in enumerate(changes) if change.kind == SKIN_TONE]
    kept = set(random.Random(seed).sample(tones, min(skin_tones, len(tones))))
    return [
        change
        for number, change in enumerate(changes)
        if change.kind != SKIN_TONE or number in kept
    ]


def _item(emoji: Emoji, names: Mapping[str, str], others: Names, font: Path) -> Item:
    name = names.get(emoji.code)
    details = {code: [of[emoji.code]] for code, of in others.items() if emoji.code in of}
    captions = [name] if name else []
    return Item(emoji.code, _picture(emoji, font), captions, [emoji.group], details=details)


def _query(change: Change, font: Path) -> Composed:
    source, target = change.source, change.target
    return Composed(
        source.code,
        _picture(source, font),
        change.modification,
        target.code,
        _picture(target, font),
        {"kind": change.kind},
    )


def _second_style(folder: Path) -> dict[str, Path]:
    """The drawings of the second style by their emoji's code; none where there is no such folder.

    In file names some codes have selectors of colour that names of emoji lack, and the reverse.
    """
    return {_bare(file.stem.upper()): file for file in folder.glob("*.png")}


def _both_styles(
    emoji: Emoji, names: Mapping[str, str], font: Path, second: Mapping[str, Path]
) -> list[Item]:
    """An emoji in each of two styles, or nothing where one of them has it not."""
    other, name = second.get(_bare(emoji.code)), names.get(emoji.code)
    if other is None or name is None:
        return []
    drawings: dict[str, Picture] = {"noto": _picture(emoji, font), "twemoji": other}
    return [
        Item(f"{emoji.code}-{style}", drawing, [name], [name])
        for style, drawing in drawings.items()
    ]


def _bare(code: str) -> str:
    return code.replace("-FE0F", "")


def _picture(emoji: Emoji, font: Path) -> Callable[[], bytes]:
    return partial(draw, font, emoji.characters)
