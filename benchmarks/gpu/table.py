"""The section of docs/results.md about the last run of `make gpu`.

python -m benchmarks.gpu.table                            # print it
python -m benchmarks.gpu.table --into docs/results.md     # and put it in its place
"""

import argparse
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from textwrap import fill

from benchmarks.gpu.goals import GOALS, Goal, Values
from benchmarks.gpu.lines import Line, last_run, read
from benchmarks.gpu.runner import ROOT

WIDTH = 118  # of a page's lines
RESULTS = ROOT / "gpu.jsonl"
HEADING = "## On a GPU"
NEVER = (
    "None of what follows has run on a GPU yet: no machine with one was at hand. On a CPU every "
    "section runs in small form (`make gpu DEVICE=cpu`), Triton's kernels are interpreted and "
    "compiled ahead of time, and waits for the device are counted on a pretended one. Speed on a "
    "GPU, memory on a GPU, NCCL, and what kernels make of their rounding there have never been "
    "measured."
)
SMALL = "In small form, on a CPU: goals are those of a GPU and are not judged."


def main() -> None:
    """Print the section, and put it into a page where one is named."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="lines of `make gpu`")
    parser.add_argument("--into", type=Path, metavar="PAGE", help="a page with the section")
    given = parser.parse_args()
    section = markdown(last_run(read(given.results)))
    print(section)
    if given.into:
        given.into.write_text(put(given.into.read_text(), section))


def put(page: str, section: str) -> str:
    """Return a page with the section in the place of its old one, or at its end."""
    before, heading, after = page.partition(f"{HEADING}\n")
    rest = after.partition("\n## ")
    following = f"\n## {rest[2]}" if heading and rest[1] else ""
    return f"{before.rstrip()}\n\n{section.rstrip()}\n{following}"


def markdown(lines: Sequence[Line]) -> str:
    """Return the section about a run's lines; without any, what has never been measured."""
    parts = [HEADING, "    make gpu", _about(lines), _goals(lines)]
    if lines:
        parts += [_sections(lines), *_failed(lines), _figures(lines)]
    return "\n\n".join(parts) + "\n"


def _about(lines: Sequence[Line]) -> str:
    if not lines:
        return fill(NEVER, WIDTH)
    found = {line.name: line.value for line in lines if line.section == "machine"}
    versions = ", ".join(
        f"{name} {found[name]}" for name in ("torch", "triton", "deepspeed") if name in found
    )
    small = "" if "CUDA" in found else f" {SMALL}"
    hardware = found.get("hardware", "unknown hardware")
    return fill(f"{hardware}; {versions}; {lines[0].name}.{small}", WIDTH)


def _goals(lines: Sequence[Line]) -> str:
    values = {
        line.name: line.value
        for line in lines
        if isinstance(line.value, float | int) and line.section in ("towers", "losses")
    }
    rows = [[goal.words, *_outcome(goal, values)] for goal in GOALS]
    return _table(["goal, on an H200", "measured", "met"], rows)


def _outcome(goal: Goal, values: Values) -> tuple[str, str]:
    value = goal.measured(values)
    if value is None:
        return "not measured", ""
    return f"{100 * value:.3g} %", "yes" if goal.is_met(value) else "no"


def _sections(lines: Sequence[Line]) -> str:
    """Return a table of the sections: their checks, and how they ended."""
    rows = []
    for name, group in groupby(lines, lambda line: line.section):
        *own, end = group
        if end.name != "section":
            continue
        held = [line.ok for line in own if line.ok is not None]
        checks = f"{sum(held)} of {len(held)}" if held else "none made"
        rows.append([name, checks, f"{end.value:.0f} s", end.note or "whole"])
    return _table(["section", "checks that held", "time", "ended"], rows)


def _failed(lines: Sequence[Line]) -> Iterator[str]:
    rows = [
        [line.section, line.name, _value(line), line.note]
        for line in lines
        if line.ok is False and line.name != "section"
    ]
    if rows:
        yield "Checks that failed:"
        yield _table(["section", "check", "value", ""], rows)


def _figures(lines: Sequence[Line]) -> str:
    """Return a table of what was measured and is no check."""
    rows = [
        [line.name, _value(line), line.note]
        for line in lines
        # The machine's words are at the head of the section.
        if line.ok is None
        and line.section != "run"
        and not (line.section == "machine" and isinstance(line.value, str))
    ]
    return _table(["figure", "value", ""], rows)


def _value(line: Line) -> str:
    value = line.value
    text = f"{value:,.4g}" if isinstance(value, float | int) else value or ""
    return f"{text} {line.unit}".strip()


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    every = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in every)


if __name__ == "__main__":
    main()
