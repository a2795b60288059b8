"""Prove and time everything on a GPU, in at most eight minutes.

    make gpu                     # on an H200 or another GPU
    make gpu DEVICE=cpu          # every section in small form, a few minutes on two cores

Each section is a process that is killed at its limit; what it has measured stays in the file of
--results, a line of JSON a value. The table of the last run is printed at the end.
"""

import argparse
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.gpu.lines import Line, append, last_run, read
from benchmarks.gpu.runner import ROOT, WHOLE, run
from benchmarks.gpu.sections import ON_CPU, SECTIONS
from benchmarks.gpu.table import RESULTS, markdown
from benchmarks.gpu.wheels import prepare


def main() -> None:
    """Run the sections and print the table; exit with 1 if one failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [section.name for section in SECTIONS]
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=names,
        default=names,
        metavar="SECTION",
        help=f"default: all, {', '.join(names)}",
    )
    given = parser.parse_args()
    results = given.results.resolve()  # sections run in the checkout
    sections = [one.on(given.device) for one in SECTIONS if one.name in given.only]
    append(results, Line("run", datetime.now(UTC).isoformat(timespec="seconds")))
    with tempfile.TemporaryDirectory() as folder:
        variables = variables_of(given.device, [ROOT, *prepare(Path(folder, "site"))])
        well = run(
            sections,
            device=given.device,
            results=results,
            work=Path(folder),
            variables=variables,
            seconds=WHOLE if given.device == "cuda" else ON_CPU * len(sections),
        )
    print(markdown(last_run(read(results))))
    sys.exit(0 if well else 1)


def variables_of(device: str, places: list[Path]) -> dict[str, str]:
    """Return the environment variables of the sections."""
    found = {"PYTHONPATH": ":".join(map(str, places)), "PYTHONWARNINGS": "ignore::FutureWarning"}
    if device == "cpu":
        found |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    return found


if __name__ == "__main__":
    main()
