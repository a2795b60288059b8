"""Sections of a report: the results of a protocol, laid out for the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from xmodal.evaluation.report.tables import percent


@dataclass(frozen=True)
class Cell:
    """A percentage, drawn as a bar with its chance where that is known."""

    value: float
    chance: float | None = None

    @property
    def chance_text(self) -> str:
        """The chance as it is shown."""
        return "" if self.chance is None else percent(self.chance)


@dataclass(frozen=True)
class Row:
    """A row of a section's table."""

    label: str | None
    cells: Sequence[Cell | str]


@dataclass(frozen=True)
class Section:
    """The results of a protocol.

    Attributes:
        sizes: numbers of queries and items, beside the name of the protocol.
        columns: heads of the table, that of the labels first; none: it has no heads.
        rows: of the table.
        drawing: SVG below the table.
        caption: of the drawing.
        lines: names of the drawing's lines, by the class that styles them.
    """

    sizes: str
    columns: Sequence[str]
    rows: Sequence[Row]
    drawing: Markup | None = None
    caption: str = ""
    lines: Mapping[str, str] = field(default_factory=dict)


def measured_cell(metrics: Mapping[str, float], name: str) -> Cell:
    """Return a metric with its chance, if that was measured."""
    return Cell(metrics[name], metrics.get(f"{name}_chance"))
