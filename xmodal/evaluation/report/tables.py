"""Tables of fixed width for the terminal."""

from collections.abc import Iterator, Mapping

from rich import box
from rich.table import Table
from rich.text import Text

WIDTH = 78  # so that log files read as well


def new_table(title: str, caption: str | None = None) -> Table:
    """Return a table without columns."""
    return Table(
        title=Text(title, "table.title"),
        caption=caption,
        title_justify="left",
        caption_justify="left",
        width=WIDTH,
        box=box.SIMPLE_HEAD,
    )


def add_columns(table: Table, *names: str) -> None:
    """Add columns: that without a name holds labels, and `chance` is dim."""
    for name in names:
        style = "dim" if name == "chance" else None
        # A name of a category may be one of rich's markup.
        table.add_column(Text(name), justify="right" if name else "left", no_wrap=True, style=style)


def with_chance(metrics: Mapping[str, float], *names: str) -> Iterator[str]:
    """Yield the cells of percentages, each with its chance."""
    for name in names:
        yield f"{metrics[name]:.1f}"
        yield percent(metrics[f"{name}_chance"])


def percent(value: float) -> str:
    """Return a percentage with one decimal, small ones with two significant digits."""
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"
