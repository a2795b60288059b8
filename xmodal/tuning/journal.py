"""Journal of a sweep: an append-only file, so that nothing is lost.

A line is `{"trial": NAME, "values": {…}}` when a trial is made, `{"trial": NAME, "value": …, …}`
when it was measured, `{"trial": NAME, "weights": DONOR, …}` when it continued from another's
weights, and `{"trial": NAME, "end": "finished"}` when it is over.

Not by Optuna's journal storage: random searches and populations have no study, and whose weights a
trial took over has no place in one. After a kill in the middle of a line it reads the rest, but the
next trial that is added fails (measured with the last seven bytes cut off); a sweep of
50 trials with 20 evaluations took it 5.0 s to write, and this file 0.2 s.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from xmodal.atomic_files import open_itself
from xmodal.errors import UserError
from xmodal.small_files import read_small

End = Literal["finished", "stopped", "failed"]
_NAME = re.compile("[0-9]{3,9}")  # of a trial


@dataclass(frozen=True)
class Measurement:
    """Report of a trial after an evaluation: the sweep's metric, and the trial's progress."""

    value: float
    step: int
    samples: int
    progress: float  # share of its steps, 0 to 1


@dataclass
class Trial:
    """A trial as the journal knows it."""

    name: str
    values: dict[str, Any]  # those that it has now, by the recipe's keys
    measured: list[Measurement] = field(default_factory=list)
    end: End | None = None  # None: to resume
    line: str = ""  # why it failed
    weights: list[tuple[int, str]] = field(default_factory=list)  # from which step on from whom

    def best(self, mode: str) -> Measurement | None:
        """Return the best of its evaluations; None where it has none that is a number."""
        numbers = [one for one in self.measured if one.value == one.value]
        sign = 1 if mode == "max" else -1
        return max(numbers, key=lambda one: sign * one.value, default=None)


class Journal:
    """The journal of a sweep, read at its start and added to while it runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trials: dict[str, Trial] = {}
        lines = read_small(path).splitlines(keepends=True) if path.is_file() else []
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):  # whoever wrote it was killed
                with open_itself(path, "r+") as file:
                    file.truncate(sum(map(len, lines[:-1])))
                break
            try:
                self._take(json.loads(line.decode()))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                raise UserError(
                    f"{path}: line {number} is not about a trial; remove it, or name another "
                    "folder with --sweep DIR"
                ) from None

    def add(self, trial: str, event: Mapping[str, Any]) -> None:
        """Add an event of a trial."""
        row = {"trial": trial} | dict(event)
        with open_itself(self.path, "a") as file:
            file.write(json.dumps(row) + "\n")
        self._take(row)

    def _take(self, row: dict[str, Any]) -> None:
        _check(row)
        name = row.pop("trial")
        if name not in self.trials:
            self.trials[name] = Trial(name, row["values"])
            return
        trial = self.trials[name]
        trial.values = row.get("values", trial.values)
        if "weights" in row:
            trial.weights.append((row["step"], row["weights"]))
        elif "step" in row:
            measured = Measurement(**row)
            # What a killed run had measured after its last checkpoint, it measures again.
            earlier = [one for one in trial.measured if one.step < measured.step]
            trial.measured = [*earlier, measured]
        elif "end" in row:
            trial.end, trial.line = row["end"], row.get("line", "")


def _check(row: Mapping[str, Any]) -> None:
    """Raise `ValueError` where a row's values are not what trials have: its name is a folder's."""
    kinds = {"values": dict, "line": str, "weights": str, "step": int, "samples": int}
    right = all(isinstance(row.get(key, kind()), kind) for key, kind in kinds.items())
    numbers = all(isinstance(row.get(key, 0), int | float) for key in ("value", "progress"))
    names = [row["trial"], row.get("weights", row["trial"])]
    if not (right and numbers and all(map(_NAME.fullmatch, names))):
        raise ValueError(row)
    if row.get("end", "failed") not in get_args(End):
        raise ValueError(row)
