"""A source of shards: tiles of a colour and a pattern, drawn from a seed."""

import io
import random
from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Literal

from PIL import Image, ImageDraw

from shards.source import Item, Reads, SourceConfig, Split, Splits

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "black", "white")
PATTERNS = ("plain", "striped", "checked", "dotted")
SIZE, CELL = 32, 8  # pixels


class TilesConfig(SourceConfig):
    """Tiles: patterns of two colours with one caption each, generated."""

    # The name in `python -m shards build tiles` and in `data.build`.
    kind: Literal["tiles"] = "tiles"
    # Options: `python -m shards build tiles seed=1 train=1000`.
    seed: int = 0
    train: int = 512
    val: int = 64
    layout: ClassVar[str] = "Nothing to prepare: the tiles are drawn. The splits are train and val."
    reads: ClassVar[Reads] = "nothing"  # else `tiles` would get the folder of --from first
    builds: ClassVar[str] = "tiles"


def tiles(*, seed: int = 0, train: int = 512, val: int = 64) -> Splits:
    """Return the function that makes each split, by name; only splits asked for are made."""
    counts = {"train": train, "val": val}
    return {name: partial(_split, f"{seed}/{name}", count) for name, count in counts.items()}


def _split(seed: str, count: int) -> Split:
    return Split([_item(f"{seed}/{number}") for number in range(count)])


def _item(image_id: str) -> Item:
    # A generator of its own for each item: the first hundred are the same in a split of any size.
    chance = random.Random(image_id)
    ground, figure = chance.sample(COLOURS, 2)
    pattern = chance.choice(PATTERNS)
    caption = f"a {ground} tile, {pattern}" + ("" if pattern == "plain" else f" in {figure}")
    # The file is made when its shard is written, by one of several processes.
    return Item(image_id, partial(draw, ground, figure, pattern), [caption], [pattern])


def draw(ground: str, figure: str, pattern: str) -> bytes:
    """Return a tile as a PNG file."""
    image = Image.new("RGB", (SIZE, SIZE), ground)
    pen = ImageDraw.Draw(image)
    for row, column in _cells(pattern):
        corner = (column * CELL, row * CELL, column * CELL + CELL - 1, row * CELL + CELL - 1)
        (pen.ellipse if pattern == "dotted" else pen.rectangle)(corner, fill=figure)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _cells(pattern: str) -> Sequence[tuple[int, int]]:
    """Return the cells, by row and column, that a pattern paints."""
    cells = [(row, column) for row in range(SIZE // CELL) for column in range(SIZE // CELL)]
    if pattern == "striped":
        return [cell for cell in cells if cell[0] % 2]
    return [] if pattern == "plain" else [cell for cell in cells if sum(cell) % 2]
