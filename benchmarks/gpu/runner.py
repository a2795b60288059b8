"""Running of sections, each in a process that is killed with its children at its limit."""

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from benchmarks.gpu.lines import Line, append, read
from benchmarks.gpu.sections import Section, shown

ROOT = Path(__file__).parents[2]
WHOLE = 480.0  # seconds at most of a run on a GPU
MISTAKE = 2  # exit code of what the user has to mend


def run(
    sections: Iterable[Section],
    *,
    device: str,
    results: Path,
    work: Path,
    variables: Mapping[str, str],
    seconds: float = WHOLE,
) -> bool:
    """Run sections one after the other; return whether all of them ended and all checks held.

    All together take at most `seconds`: the last ones are cut short. One that ends with a mistake
    of the user's ends the run.
    """
    first, deadline = len(read(results)), time.monotonic() + seconds
    for section in sections:
        left = max(0.0, min(section.seconds, deadline - time.monotonic()))
        words = [section.module, "--device", device, "--results", results, "--work", work]
        begun = time.monotonic()
        code = _exit_code(words, left, variables)
        failure = f"killed at its limit of {left:.0f} s" if code is None else f"exit code {code}"
        ended = Line(section.name, "section", time.monotonic() - begun, "s", code == 0)
        line = ended if code == 0 else replace(ended, note=failure)
        append(results, line)
        print(shown(line), flush=True)
        if code == MISTAKE:
            break
    return all(line.ok is not False for line in read(results)[first:])


def _exit_code(words: list[object], seconds: float, variables: Mapping[str, str]) -> int | None:
    """Run a section; return its exit code, or None where it was killed at its limit."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.gpu.sections", *map(str, words)],
        cwd=ROOT,
        env=os.environ | variables,
        start_new_session=True,
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        kill(process)


def kill(process: subprocess.Popen) -> None:
    """Kill a process and its descendants, those too that have sessions of their own."""
    import psutil  # where packages are missing, the command says so before this

    with suppress(psutil.NoSuchProcess):
        descendants = psutil.Process(process.pid).children(recursive=True)
        for one in [psutil.Process(process.pid), *descendants]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    process.wait()
