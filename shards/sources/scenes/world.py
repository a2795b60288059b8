"""Scenes: two or three objects on a ground, as meaning; `draw` makes pictures of them."""

import random
from dataclasses import dataclass, field
from hashlib import blake2b

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "black", "white")
SHAPES = ("circle", "square", "triangle", "star", "cross", "heart", "ring", "moon")
SIZES = ("small", "large")
ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "centre", "right")
GROUNDS = ("grey", "tan", "pink", "turquoise")
TEXTURES = ("plain", "striped", "dotted", "chequered")


@dataclass(frozen=True)
class Look:
    """Appearance that no caption mentions: offset in parts of a cell, degrees, brightness."""

    right: float = 0.0
    down: float = 0.0
    tilt: float = 0.0
    shade: float = 1.0


@dataclass(frozen=True)
class Thing:
    """One object. Two with the same meaning are equal, however each of them looks."""

    colour: str
    shape: str
    size: str
    row: str
    column: str
    look: Look = field(default=Look(), compare=False)


@dataclass(frozen=True)
class Scene:
    """Two or three things in reading order, each in a cell of its own and of a kind of its own."""

    things: tuple[Thing, ...]
    ground: str
    texture: str

    def __post_init__(self) -> None:
        order = sorted(self.things, key=lambda t: (ROWS.index(t.row), COLUMNS.index(t.column)))
        object.__setattr__(self, "things", tuple(order))

    @property
    def is_held_out(self) -> bool:
        """True if this meaning is held out of training in all appearances; a quarter are."""
        words = [" ".join((t.colour, t.shape, t.size, t.row, t.column)) for t in self.things]
        text = "/".join([*words, self.ground, self.texture])
        return blake2b(text.encode(), digest_size=1).digest()[0] < 64


@dataclass(frozen=True)
class Variety:
    """Numbers of colours and shapes that scenes have, the most things of one, and its captions."""

    colours: int = len(COLOURS)
    shapes: int = len(SHAPES)
    things: int = 3
    captions: int = 5


WHOLE = Variety()


def draw_scene(rng: random.Random, variety: Variety = WHOLE) -> Scene:
    """A scene at random, all kinds and places equally likely."""
    count = rng.choice(range(2, variety.things + 1))
    cells = rng.sample([(row, column) for row in ROWS for column in COLUMNS], count)
    colours, shapes = COLOURS[: variety.colours], SHAPES[: variety.shapes]
    kinds = rng.sample([(c, s, z) for c in colours for s in shapes for z in SIZES], count)
    things = (
        Thing(*kind, *cell, look=_draw_look(rng)) for kind, cell in zip(kinds, cells, strict=True)
    )
    return Scene(tuple(things), rng.choice(GROUNDS), rng.choice(TEXTURES))


def _draw_look(rng: random.Random) -> Look:
    return Look(
        right=rng.uniform(-0.05, 0.05),
        down=rng.uniform(-0.05, 0.05),
        tilt=rng.uniform(-12, 12),
        shade=rng.uniform(0.88, 1.0),
    )
