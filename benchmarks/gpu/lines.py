"""Lines of JSON that a run of `make gpu` appends as it measures, so that nothing is lost."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Line:
    """A measured value, or a check.

    Attributes:
        section: the section that measured it.
        name: what was measured, such as `B/16 compiled: MFU`.
        value: its value; None of a check that has none.
        unit: the unit of the value, such as `samples/s`.
        ok: whether the check held; None of what is measured alone.
        note: what more a reader has to know.
    """

    section: str
    name: str
    value: float | str | None = None
    unit: str = ""
    ok: bool | None = None
    note: str = ""


def append(path: Path, line: Line) -> None:
    """Append a line in one write, so that processes that are killed leave whole lines."""
    with path.open("a") as file:
        file.write(json.dumps(asdict(line)) + "\n")


def read(path: Path) -> list[Line]:
    """Return all lines of a file; none where there is no file."""
    return list(_lines(path)) if path.exists() else []


def last_run(lines: list[Line]) -> list[Line]:
    """Return the lines of the last run, which begins with its section `run`."""
    begins = [number for number, line in enumerate(lines) if line.section == "run"]
    return lines[begins[-1] :] if begins else []


def _lines(path: Path) -> Iterator[Line]:
    for text in path.read_text().splitlines():
        yield Line(**json.loads(text))
