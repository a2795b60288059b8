"""Reports of a run: tables in the terminal, a picture in TensorBoard, a page in the browser."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image, ImageDraw, ImageFont, ImageOps

from xmodal.atomic_files import write_atomically
from xmodal.errors import printable
from xmodal.evaluation.protocols.protocol import Protocol
from xmodal.evaluation.protocols.registry import measured_by
from xmodal.evaluation.report.curve import curve
from xmodal.evaluation.report.measured import Measured
from xmodal.evaluation.report.page import HERE, render
from xmodal.evaluation.report.speed import speed_section
from xmodal.terminal import console

GREEN, GREY = "#1a7f4b", "#d5d8dc"  # frames of relevant and of other images
BLUE = "#2f6fdb"  # that of an image that is searched with

Picture = Image.Image | np.ndarray  # an array is (height, width, 3) uint8


@dataclass(frozen=True)
class Hit:
    """One retrieved item: an image or a caption."""

    item: Picture | str
    is_relevant: bool
    score: float


@dataclass(frozen=True)
class Example:
    """A query, what was retrieved for it, best first, and its best relevant item's 0-based rank.

    A query is an image, a text, or both: an image and its modification.
    """

    image: Picture | None
    text: str | None
    hits: Sequence[Hit]
    rank: int | None  # None where nothing is relevant

    @property
    def finds_images(self) -> bool:
        """True where the hits are images."""
        return not any(isinstance(hit.item, str) for hit in self.hits)


def print_results(metrics: Mapping[str, float], run: str | Path) -> None:
    """Print a table for each protocol, and the path of the report."""
    shown = console(soft_wrap=True)
    for name, protocol in measured_by(metrics).items():
        shown.print(protocol.table(metrics, name))
    page = Path(run) / "report" / "index.html"
    if page.is_file():
        shown.print(f"report: {page}", markup=False, highlight=False)


def write_report(
    folder: Path,
    title: str,
    metrics: Mapping[str, float],
    examples: Sequence[Example],
    history: Sequence[Mapping[str, Any]],
    recipe: str,
    subject: Measured | None = None,
    ended: str | None = None,
) -> Path:
    """Write `report/index.html`, one file that needs nothing beside it, and return its path.

    Args:
        folder: the run folder.
        title: the page's heading.
        metrics: numbers by name.
        examples: retrieved examples of some queries.
        history: the rows of metrics.jsonl; `loss` and the headline of each protocol are drawn by
            `step`.
        recipe: the resolved recipe's YAML.
        subject: checkpoint, data and protocols that the metrics are of.
        ended: why the run has ended before its last step.
    """
    measured = measured_by(metrics)
    page = render(
        HERE / "report.html",
        title,
        metrics=metrics,
        data_uri=data_uri,
        panels={name: one.section(metrics, name) for name, one in measured.items()},
        others={k: value for k, value in metrics.items() if k.split("/")[0] not in measured},
        curves=dict(_curves(history, measured)),
        speed=speed_section(history),
        sections=_sections(examples),
        recipe=recipe,
        subject=subject,
        ended=ended,
    )
    path = Path(folder) / "report" / "index.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page)
    return path


def _sections(examples: Sequence[Example]) -> dict[str, list[Example]]:
    """Return the examples by the heading above them, in the order of the page."""
    sections: dict[str, list[Example]] = {
        "Images found for captions": [],
        "Captions found for images": [],
        "Images found for an image and its modification": [],
        "Images found for images": [],
    }
    captions, images, composed_queries, alike = sections.values()
    for example in examples:
        if example.image is None:
            captions.append(example)
        elif example.text is not None:
            composed_queries.append(example)
        else:
            (alike if example.finds_images else images).append(example)
    return {title: found for title, found in sections.items() if found}


def _curves(
    history: Sequence[Mapping[str, Any]], measured: Mapping[str, Protocol]
) -> Iterator[tuple[str, Markup]]:
    drawn = [
        f"{name}/{one.headline}"
        for name, one in measured.items()
        if one.headline in one.higher_is_better
    ]
    for key in ["loss", *drawn]:
        drawing = curve([(row["step"], row[key]) for row in history if key in row], key)
        if drawing:
            yield key, Markup(drawing)


def data_uri(picture: Picture, size: int = 320) -> str:
    """The picture as a JPEG in a `data:` address, at most `size` pixels high and wide."""
    image = _rgb(picture)
    image.thumbnail((size, size))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _rgb(picture: Picture) -> Image.Image:
    """A copy as an RGB image."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def retrieval_sheet(examples: Sequence[Example], size: int = 144) -> np.ndarray | None:
    """Draw the examples that retrieve images, a row each, relevant ones framed in green.

    The image of a query stands first, framed in blue. Images are `size` pixels square.
    Returns a picture (height, width, 3) uint8, or None where no example retrieves images.
    """
    examples = [example for example in examples if example.finds_images]
    if not examples:
        return None
    rows = [_sheet_row(example, size) for example in examples]
    sheet = Image.new(
        "RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white"
    )
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return np.asarray(sheet)


def _sheet_row(
    example: Example, size: int, frame: int = 4, gap: int = 10, line: int = 20
) -> Image.Image:
    font = ImageFont.load_default(15)
    pitch = size + 2 * frame + gap
    pictures = [] if example.image is None else [(example.image, BLUE, "")]
    for hit in example.hits:
        assert not isinstance(hit.item, str), "captions are not drawn"
        pictures.append((hit.item, GREEN if hit.is_relevant else GREY, f"{hit.score:.3f}"))
    width = gap + max(5, len(pictures)) * pitch
    found = "none" if example.rank is None else f"rank {example.rank + 1:,}"
    title = f"{printable(example.text or '')} (best relevant image: {found})".strip()
    lines = _wrapped(title, font, width - 2 * gap)
    top = gap + line * len(lines)
    row = Image.new("RGB", (width, top + pitch + line + gap), "white")
    draw = ImageDraw.Draw(row)
    for number, text in enumerate(lines):
        draw.text((gap, gap + line * number), text, "black", font)
    for place, (picture, colour, below) in enumerate(pictures):
        square = ImageOps.pad(_rgb(picture), (size, size), color="white")
        row.paste(ImageOps.expand(square, frame, colour), (gap + place * pitch, top))
        draw.text((gap + place * pitch, top + pitch - gap), below, "black", font)
    return row


def _wrapped(
    text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
