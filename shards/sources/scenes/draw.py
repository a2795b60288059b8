"""Draw a scene: flat shapes on a textured ground, smoothed by drawing large and shrinking."""

import numpy as np
from PIL import Image, ImageDraw

from shards.sources.scenes.world import COLUMNS, ROWS, Scene, Thing

IMAGE_SIZE = 96
_SCALE = 3  # drawn this much larger, then averaged
_RADIUS = {"small": 0.09, "large": 0.13}  # of the picture's width; cells are 1/3 wide
_PAINT = {
    "red": (218, 30, 40),
    "orange": (250, 135, 20),
    "yellow": (250, 225, 30),
    "green": (30, 150, 60),
    "blue": (35, 75, 215),
    "purple": (130, 45, 165),
    "black": (20, 20, 20),
    "white": (255, 255, 255),
    "grey": (150, 150, 150),
    "tan": (205, 170, 120),
    "pink": (240, 170, 190),
    "turquoise": (110, 200, 195),
}


def _arc(start: float, stop: float, points: int = 40) -> np.ndarray:
    return np.exp(1j * np.radians(np.linspace(start, stop, points)))


def _corners(count: int) -> np.ndarray:
    return np.exp(1j * (2 * np.pi * np.arange(count) / count - np.pi / 2))


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 60)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return (16 * np.sin(t) ** 3 - 1j * (y + 2.5)) / 16


def _cross(half: float = 0.32) -> np.ndarray:
    arm = np.array([half - 1j, half - half * 1j, 1 - half * 1j])
    return np.concatenate([arm * 1j**quarter for quarter in range(4)])


# Outlines as complex numbers x + iy, y down, within 1.15 of the origin.
_OUTLINES = {
    "circle": _arc(0, 360),
    "square": 1.15 * _corners(4) * np.exp(0.25j * np.pi),
    "triangle": 1.05 * _corners(3) + 0.2j,
    "star": np.stack([1.15 * _corners(5), -0.48 * _corners(5)[[3, 4, 0, 1, 2]]], 1).ravel(),
    "cross": _cross(),
    "heart": _heart(),
    # Its inner and outer edge join at the bottom: an upright seam is one that Pillow closes.
    "ring": np.concatenate([_arc(90, 450), 0.55 * _arc(450, 90)]),
    "moon": np.concatenate([_arc(50, 310), 0.42 + 0.78 * _arc(282, 78)]),
}


def draw(scene: Scene) -> Image.Image:
    """The scene as an RGB picture of `IMAGE_SIZE` pixels a side."""
    side = IMAGE_SIZE * _SCALE
    picture = Image.new("RGB", (side, side), _PAINT[scene.ground])
    pen = ImageDraw.Draw(picture)
    _draw_texture(pen, scene.texture, _shaded(scene.ground, 0.86), side)
    for thing in scene.things:
        paint = _shaded(thing.colour, thing.look.shade)
        pen.polygon(_outline(thing, side), fill=paint)
    return picture.reduce(_SCALE)


def _outline(thing: Thing, side: int) -> list[tuple[float, float]]:
    column = COLUMNS.index(thing.column) + 0.5 + thing.look.right
    row = ROWS.index(thing.row) + 0.5 + thing.look.down
    turn = _RADIUS[thing.size] * np.exp(1j * np.radians(thing.look.tilt))
    points = side * (complex(column, row) / 3 + turn * _OUTLINES[thing.shape])
    return list(zip(points.real.tolist(), points.imag.tolist(), strict=True))


def _shaded(colour: str, shade: float) -> tuple[int, int, int]:
    red, green, blue = (round(shade * part) for part in _PAINT[colour])
    return red, green, blue


def _draw_texture(
    pen: ImageDraw.ImageDraw, texture: str, paint: tuple[int, int, int], side: int
) -> None:
    step = side // 12
    if texture == "striped":
        for x in range(0, 2 * side, 2 * step):
            pen.line([(x, 0), (x - side, side)], fill=paint, width=2 * step // 3)
    elif texture == "dotted":
        for x in range(step, side, 2 * step):
            for y in range(step, side, 2 * step):
                pen.circle((x, y), step // 2, fill=paint)
    elif texture == "chequered":
        for x in range(0, side, step):
            for y in range(x % (2 * step), side, 2 * step):
                pen.rectangle([x, y, x + step - 1, y + step - 1], fill=paint)
