"""Emoji: what their names tell of changes, what the font has not, and splits by concept.

The font is 10 MB; here a stand-in draws one square a name, as wide as the font would.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from shards.source import Split, find_source
from shards.sources import emoji
from shards.sources.emoji.change import Emoji, find_changes
from xmodal.data.decode import decode_image
from xmodal.errors import UserError

TONES = ["light", "medium-light", "medium", "medium-dark", "dark"]


def changes(*names: str) -> set[tuple[str, str, str, str]]:
    every = [Emoji(name, name, name, "group") for name in names]
    return {
        (change.kind, change.source.name, change.modification, change.target.name)
        for change in find_changes(every)
    }


@pytest.mark.parametrize(
    ("kind", "source", "there", "target", "back"),
    [
        (
            "skin tone",
            "ear",
            "with dark skin tone",
            "ear: dark skin tone",
            "without dark skin tone",
        ),
        (
            "skin tone",
            "man: light skin tone, bald",
            "with dark skin tone",
            "man: dark skin tone, bald",
            "with light skin tone",
        ),
        ("gender", "man judge", "change man to woman", "woman judge", "change woman to man"),
        ("gender", "judge", "change person to man", "man judge", "change man to person"),
        ("gender", "men golfing", "change men to people", "people golfing", "change people to men"),
        ("hair", "man", "with a beard", "man: beard", "without a beard"),
        ("hair", "woman: bald", "with red hair", "woman: red hair", "with a bald head"),
        ("extra", "cloud", "with rain", "cloud with rain", "without rain"),
        ("extra", "snowman", "without snow", "snowman without snow", "with snow"),
        (
            "extra",
            "man running: dark skin tone",
            "facing right",
            "man running: dark skin tone, facing right",
            "facing left",
        ),
        (
            "colour",
            "red top",
            "change red to light blue",
            "light blue top",
            "change light blue to red",
        ),
        ("opposite", "thumbs up", "change up to down", "thumbs down", "change down to up"),
        (
            "opposite",
            "left-facing fist: dark skin tone",
            "change left-facing to right-facing",
            "right-facing fist: dark skin tone",
            "change right-facing to left-facing",
        ),
    ],
)
def test_a_change_and_back(kind: str, source: str, there: str, target: str, back: str) -> None:
    assert changes(source, target) == {
        (kind, source, there, target),
        (kind, target, back, source),
    }


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("man: dark skin tone", "woman"),  # two changes
        ("man judge: dark skin tone", "woman judge: light skin tone"),
        ("smiling face with hearts", "smiling face with halo"),
        ("man with cane: facing right", "man"),
        ("handshake: light skin tone, dark skin tone", "handshake: light skin tone"),
        ("upset face", "downset face"),
        ("tired face", "tgreen face"),
        ("dog", "cat"),
    ],
)
def test_what_is_no_one_change(one: str, other: str) -> None:
    assert changes(one, other) == set()


def test_each_pair_counts_once() -> None:
    # Red hair becomes white: of hair, and of colour.
    found = changes("man: red hair", "man: white hair")
    assert found == {
        ("hair", "man: red hair", "with white hair", "man: white hair"),
        ("hair", "man: white hair", "with red hair", "man: red hair"),
    }


# -- the source --


def entry(number: int, label: str, group: int | None = 3, **more: object) -> dict[str, Any]:
    known = {"label": label, "hexcode": f"{number:X}", "emoji": chr(number), "tags": [], **more}
    return known | ({} if group is None else {"group": group})


def tones(number: int, label: str) -> list[dict]:
    return [
        entry(number + n, f"{label}: {tone} skin tone", tone=n) for n, tone in enumerate(TONES, 1)
    ]


class Font:
    """Draws what it knows in one square; what it cannot join stands side by side."""

    def getlength(self, characters: str) -> float:
        return 271.4 if ord(characters) == 0x70 else 135.7


def draw(font: Path, characters: str) -> Image.Image:
    same = {0x10FFFF: 0, 0x71: 0, 0x72: 0, 0x73: 0x74}
    number = same.get(ord(characters), ord(characters))
    return Image.new("RGB", (136, 128), (number % 256, number // 256, 7))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The layout of both packages: 80 kinds of dog in six tones, and the dirt."""
    monkeypatch.setattr(emoji, "_load", lambda _: Font())
    monkeypatch.setattr(emoji, "_draw", draw)
    font = tmp_path / "usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
    font.parent.mkdir(parents=True)
    font.write_bytes(b"")
    dogs = [
        entry(0x100 + 8 * n, f"dog {n}", skins=tones(0x100 + 8 * n, f"dog {n}")) for n in range(80)
    ]
    dirt = [
        entry(0x1F1E6, "regional indicator A", None),
        entry(0x1F3FB, "light skin tone", 2),
        entry(0x70, "falls apart"),
        entry(0x71, "not there"),
        entry(0x72, "not there either"),
        entry(0x73, "flag: Norway", 9),
        entry(0x74, "flag: Bouvet Island", 9),
    ]
    for language, names in (("en", "{}"), ("de", "{} auf Deutsch")):
        document = json.loads(json.dumps(dogs + dirt))
        for each in document:
            each["label"] = names.format(each["label"])
        path = tmp_path / f"package/{language}/data.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(document))
    (tmp_path / "package/meta").mkdir()
    (tmp_path / "package/meta/groups.json").write_text(
        json.dumps({"groups": {"2": "component", "3": "animals-nature", "9": "flags"}})
    )
    return tmp_path


def splits(root: Path, **options: object) -> dict[str, Split]:
    return {name: make() for name, make in find_source("emoji").read(root, options).items()}


def test_drawings_that_tell_nothing_are_skipped(root: Path) -> None:
    found = splits(root)
    assert sorted(found["train"].skipped) == [
        ("falls apart", "not in this font", "70"),
        ("flag: Bouvet Island", "drawn as another", "74"),
        ("flag: Norway", "drawn as another", "73"),
        ("light skin tone", "part of other emoji", "1F3FB"),
        ("not there", "not in this font", "71"),
        ("not there either", "not in this font", "72"),
        ("regional indicator A", "part of other emoji", "1F1E6"),
    ]
    plain = [item for name in ("train", "val", "test") for item in found[name].items]
    assert len(plain) == 480
    (item,) = [item for item in plain if item.captions == ["dog 3: medium skin tone"]]
    assert (item.image_id, item.labels) == ("11B", ["animals-nature"])
    assert decode_image(item.picture()).shape == (128, 136, 3)


def test_a_concept_is_in_one_split(root: Path) -> None:
    found = splits(root, skin_tones=10_000)
    dogs = {
        name: {item.captions[0].split(":")[0] for item in found[name].items}
        for name in ("train", "val", "test")
    }
    assert sum(map(len, dogs.values())) == 80
    assert len(dogs["train"] | dogs["val"] | dogs["test"]) == 80
    assert len(dogs["train"]) > 50
    for name in ("val", "test"):
        assert dogs[name]
        gallery = {item.image_id for item in found[f"composed_{name}_gallery"].items}
        queries = found[f"composed_{name}"].items
        assert gallery == {query.source_id for query in queries}
        assert gallery == {query.target_id for query in queries}


def test_so_many_skin_tones_by_seed(root: Path) -> None:
    def drawn(**options: int) -> list:
        found = splits(root, **options)
        names = ("composed_train", "composed_val", "composed_test")
        return [query.record for name in names for query in found[name].items]

    assert len(drawn(skin_tones=10_000)) == 80 * 30
    assert len(drawn(skin_tones=25)) == 25
    assert drawn(skin_tones=25) == drawn(skin_tones=25) != drawn(skin_tones=25, seed=1)
    assert {record["kind"] for record in drawn()} == {"skin tone"}
    with pytest.raises(UserError, match="skin_tones=-1"):
        drawn(skin_tones=-1)


def test_each_emoji_in_two_styles_where_both_are_there(root: Path) -> None:
    assert not [name for name in splits(root) if name.startswith("styles")]
    folder = root / "package/img/twitter/64"
    folder.mkdir(parents=True)
    for name in ("100", "11b-fe0f", "70"):  # with a selector, and one that the font has not
        Image.new("RGB", (64, 64)).save(folder / f"{name}.png")
    found = splits(root)
    items = [item for name in ("train", "val", "test") for item in found[f"styles_{name}"].items]
    assert sorted((item.image_id, *item.captions, *item.labels) for item in items) == [
        ("100-noto", "dog 0", "dog 0"),
        ("100-twemoji", "dog 0", "dog 0"),
        ("11B-noto", "dog 3: medium skin tone", "dog 3: medium skin tone"),
        ("11B-twemoji", "dog 3: medium skin tone", "dog 3: medium skin tone"),
    ]
    skipped = [
        each for split in ("train", "val", "test") for each in found[f"styles_{split}"].skipped
    ]
    assert len(skipped) == 478
    assert ("dog 3", "not in the second style", "118") in skipped
    drawings = {item.image_id: item.picture for item in items}
    assert decode_image(drawings["11B-noto"]()).shape == (128, 136, 3)
    assert drawings["11B-twemoji"] == folder / "11b-fe0f.png"
    (split,) = [name for name in ("train", "val", "test") for item in found[f"styles_{name}"].items
                if item.image_id == "11B-noto"]  # fmt: skip
    assert "11B" in {item.image_id for item in found[split].items}


def test_names_in_another_language(root: Path) -> None:
    german = splits(root, language="de")
    english = splits(root)
    for name in ("train", "val", "test"):
        assert [item.image_id for item in german[name].items] == [
            item.image_id for item in english[name].items
        ]
    assert german["train"].items[0].captions[0].endswith("auf Deutsch")
    assert [query.record for query in german["composed_train"].items] == [
        query.record for query in english["composed_train"].items
    ]
    with pytest.raises(UserError, match="has no package/tlh/data"):
        splits(root, language="tlh")


def test_names_in_further_languages_are_beside_the_captions(root: Path) -> None:
    read = splits(root, languages="de, en")
    german = splits(root, language="de")
    for item, same in zip(read["train"].items, german["train"].items, strict=True):
        assert item.record["de"] == same.captions
        assert item.record["en"] == item.captions
    with pytest.raises(UserError, match=r"languages=\.\./de: '\.\./de' is no code of a language"):
        splits(root, languages="../de")


def test_what_is_wrong_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.raises(UserError, match="is no font with drawings of 109"):
        splits(root)
    (root / "package/en/data.json").write_text('[{"label": "x"}]')
    with pytest.raises(UserError, match="is not of emojibase-data"):
        splits(root)
