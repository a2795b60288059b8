"""Texts in further languages: lists in a sample's JSON, each under the code of its language."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from shards.annotations import read_token_file
from shards.source import Item, Split, Splits, require
from xmodal.errors import UserError

_CODE = re.compile(r"[A-Za-z]{2,3}([-_@][A-Za-z]+)*")


def language_codes(option: str, value: str) -> list[str]:
    """Return the codes of languages that an option lists; raises `UserError` for anything else."""
    codes = [code.strip() for code in value.split(",") if code.strip()]
    for code in codes:
        if not _CODE.fullmatch(code):
            raise UserError(f"{option}={value}: {code!r} is no code of a language, such as zh")
    return list(dict.fromkeys(codes))


def with_translations(splits: Splits, root: Path, value: str) -> Splits:
    """Return splits whose images have texts of further token files too.

    `value` is `CODE:FILE`, or several of these with commas between them; files lie below `root`.
    """
    pairs = [one.strip().partition(":") for one in value.split(",") if one.strip()]
    for code, colon, file in pairs:
        if not (colon and file):
            raise UserError(f"translations={value}: write CODE:FILE, such as zh:captions.zh.txt")
        language_codes("translations", code)
        require(root, file)
    if not pairs:
        return splits
    files = {code: root / file for code, _, file in pairs}

    def translated(make: Callable[[], Split]) -> Callable[[], Split]:
        return lambda: _translated(make(), files)

    return {name: translated(make) for name, make in splits.items()}


def _translated(split: Split, files: Mapping[str, Path]) -> Split:
    texts = {code: read_token_file(file) for code, file in files.items()}
    items = [_item(item, texts) if isinstance(item, Item) else item for item in split.items]
    return replace(split, items=items)


def _item(item: Item, texts: Mapping[str, Mapping[str, Sequence[str]]]) -> Item:
    file = item.picture.name if isinstance(item.picture, Path) else ""
    found = {code: list(of[file]) for code, of in texts.items() if file in of}
    return replace(item, details={**item.details, **found})
