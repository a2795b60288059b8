"""Sections of `make gpu` in their order, and the process that measures one of them."""

import argparse
import importlib
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.gpu.lines import Line, append
from xmodal.errors import run_command

ON_CPU = 600.0  # seconds at most of a section in small form


@dataclass(frozen=True)
class Section:
    """A module with `measure(bench)`, and the seconds after which its process is killed."""

    module: str
    seconds: float

    @property
    def name(self) -> str:
        """The name in lines and tables."""
        return self.module.rpartition(".")[2]

    def on(self, device: str) -> "Section":
        """Return the section as a device takes it."""
        return self if device == "cuda" else replace(self, seconds=ON_CPU)


SECTIONS = (
    Section("benchmarks.gpu.machine", 20),
    Section("benchmarks.gpu.compilation", 40),
    Section("benchmarks.gpu.kernels", 55),
    Section("benchmarks.gpu.steps", 70),
    Section("benchmarks.gpu.resume", 45),
    Section("benchmarks.gpu.ranks", 25),
    Section("benchmarks.gpu.loading", 20),
    Section("benchmarks.gpu.towers", 150),
    Section("benchmarks.gpu.losses", 45),
)


@dataclass(frozen=True)
class Bench:
    """Device of a section, and the file of its lines.

    `work` is a folder that the sections of a run share.
    """

    section: str
    device: str  # cuda or cpu
    results: Path
    work: Path

    @property
    def small(self) -> bool:
        """True where sizes are small: on a CPU."""
        return self.device == "cpu"

    def record(
        self,
        name: str,
        value: float | str | None = None,
        unit: str = "",
        *,
        ok: bool | None = None,
        note: str = "",
    ) -> None:
        """Append a value or a check, and print it."""
        line = Line(self.section, name, value, unit, ok, note)
        append(self.results, line)
        print(shown(line), flush=True)

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Record a block that raises as a check that failed; what follows it is measured still."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.record(name, type(error).__name__, ok=False, note=str(error).partition("\n")[0])


def shown(line: Line) -> str:
    """Return a line for a terminal."""
    value = f"{line.value:,.4g}" if isinstance(line.value, float | int) else line.value or ""
    mark = {True: "ok", False: "FAILED", None: ""}[line.ok]
    words = (f"{line.section:8}", f"{line.name:60}", f"{value:>12} {line.unit}", mark, line.note)
    return "  ".join(words).rstrip()


def main() -> None:
    """Measure one section in this process."""
    parser = argparse.ArgumentParser(description="One section of make gpu, in this process.")
    parser.add_argument("module")
    parser.add_argument("--device", choices=["cuda", "cpu"], required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    given = parser.parse_args()
    section = Section(given.module, 0)
    bench = Bench(section.name, given.device, given.results, given.work)
    importlib.import_module(section.module).measure(bench)


if __name__ == "__main__":
    run_command(main)
