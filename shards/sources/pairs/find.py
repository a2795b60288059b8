"""Search for the tables of a folder; the split of each follows from file or folder names."""

import re
from collections import defaultdict
from pathlib import Path

from shards.source import MissingError
from shards.sources.pairs.tables import SUFFIXES
from xmodal.errors import UserError

SPLITS = ("train", "val", "validation", "valid", "dev", "test")
# Part of a table, as Hugging Face names them: train-00000-of-00002.parquet; a digest may follow.
_PART = re.compile(r"(?P<name>.+?)[-_.](?P<number>\d{3,})-of-(?P<count>\d{3,})([-_.][0-9a-f]+)?")
_NUMBER = re.compile(r"\d{3,}")  # as img2dataset names parts
# Files beside tables that say something else about them.
_OTHERS = re.compile(
    r"dataset_infos?\.json|dataset_dict\.json|state\.json|.*_stats\.json|(build|shardindex)\.json"
)


def find_tables(root: Path) -> list[Path]:
    """Return the table `root`, or those of the folder `root`: one per split, or its parts in order.

    There may be none. Raises `UserError` if the choice is ambiguous.
    """
    if root.is_file():
        if root.suffix.lower() not in SUFFIXES:
            raise MissingError(
                f"{root} is not a table: its name ends with none of {', '.join(SUFFIXES)}"
            )
        return [root]
    folders = [root, *(root / name for name in SPLITS)]
    tables = _tables(folders) or _tables([root / "data"])
    parts = defaultdict(list)
    for table in tables:
        parts[_group(table)].append(table)
    for members in parts.values():
        _refuse_lacking(members)
    if len({split_of(members[0]) for members in parts.values()}) < len(parts):
        names = ", ".join(str(table.relative_to(root)) for table in tables)
        raise UserError(f"{root} has several tables ({names}): name one of them by --from")
    return tables


def split_of(table: Path) -> str:
    """Return the split in the name of a table or of its folder; train by default."""
    part = _PART.fullmatch(table.stem)
    name = part["name"] if part else table.stem
    words = [name, *(reversed(re.split(r"[-_.]", name)) if part else ())]
    known = next((word for word in words if word in SPLITS), "")
    if known or (part and table.parent.name not in SPLITS):
        return known or name
    return table.parent.name if table.parent.name in SPLITS else "train"


def _tables(folders: list[Path]) -> list[Path]:
    return [
        path
        for folder in folders
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not path.name.startswith(".")
        and not _OTHERS.fullmatch(path.name)
    ]


def _group(table: Path) -> tuple[str, ...]:
    part = _PART.fullmatch(table.stem)
    if part:
        return str(table.parent), part["name"], part["count"], table.suffix
    name = "" if _NUMBER.fullmatch(table.stem) else table.name
    return str(table.parent), name, table.suffix


def _refuse_lacking(members: list[Path]) -> None:
    parts = [part for table in members if (part := _PART.fullmatch(table.stem))]
    if not parts:
        return
    count = int(parts[0]["count"])
    lacking = sorted(set(range(count)) - {int(part["number"]) for part in parts})
    if lacking:
        name = members[0].name.replace(parts[0]["number"], f"{lacking[0]:05d}", 1)
        raise UserError(
            f"{members[0].parent} has {len(parts):,} of the {count:,} parts of {parts[0]['name']} "
            f"(no {name}): add the others, or name one by --from to build it alone"
        )
