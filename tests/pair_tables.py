"""Tables of pairs to read, and what the source makes of them."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from shards.source import Split, find_source
from xmodal.errors import UserError


def splits(root: Path, **options: object) -> dict[str, Split]:
    return {name: make() for name, make in find_source("pairs").read(root, options).items()}


def train(root: Path, **options: object) -> dict[str, list[str]]:
    """The captions of each image of train, by its id."""
    found = splits(root, **options)
    assert list(found) == ["train"]
    return {item.image_id: list(item.captions) for item in found["train"].items}


def causes(root: Path, **options: object) -> list[tuple[str, str, str]]:
    return [entry for split in splits(root, **options).values() for entry in split.skipped]


def notes(root: Path, **options: object) -> list[str]:
    return list(next(iter(splits(root, **options).values())).notes)


def fails(root: Path, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        splits(root, **options)
    return str(caught.value).splitlines()[0]


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def write_table(path: Path, rows: Sequence[dict], encoding: str = "utf-8") -> Path:
    if path.suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding=encoding)
    else:
        with path.open("w", newline="", encoding=encoding) as file:
            delimiter = (
                "\t" if path.suffix.lower() == ".tsv" else ";" if "semicolon" in path.stem else ","
            )
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    return path
