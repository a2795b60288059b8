"""Wheels for a machine with a GPU and PyTorch but without a network.

    make gpu-wheels                                      # where there is a network: into .wheels
    python -m benchmarks.gpu.wheels --python 3.12        # for another Python than the default

Bring the checkout and the folder .wheels to that machine: `make gpu` installs them into a folder of
its own, beside what the machine has. DeepSpeed is built here, without kernels of its own.
"""

import argparse
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".wheels"
LIST = Path(__file__).with_name("wheels.txt")
BUILT = "deepspeed"  # is not published as a wheel
# pip matches each of them exactly.
PLATFORMS = ("2_39", "2_35", "2_34", "2_31", "2_28", "2_27", "2_24", "2_17", "2014", "1")


def main() -> None:
    """Download the wheels, and build the one that there is none of."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.wheels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--python", default="3.12", help="version of the other machine's Python")
    given = parser.parse_args()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    listed = ["--no-deps", "-c", str(ROOT / "constraints.txt")]
    built = [*pip, "wheel", "-q", *listed, "-w", str(FOLDER), BUILT]
    others = [name for name in names() if not name.startswith(BUILT)]
    binary = ["--only-binary=:all:", "--implementation=cp", f"--python-version={given.python}"]
    binary += [f"--platform=manylinux{number}_x86_64" for number in _platforms()]
    subprocess.run(built, check=True, env=os.environ | {"DS_BUILD_OPS": "0"})
    subprocess.run([*pip, "download", "-q", *listed, *binary, "-d", FOLDER, *others], check=True)
    size = sum(path.stat().st_size for path in FOLDER.glob("*.whl")) / 2**20
    print(f"{len(list(FOLDER.glob('*.whl')))} wheels in {FOLDER}: {size:.1f} MiB")


def names() -> list[str]:
    """Return the requirements that are carried."""
    lines = LIST.read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def prepare(to: Path) -> list[Path]:
    """Install the wheels where this Python lacks packages; return the places to import from.

    Exits with a line about what to do if packages are lacking even so.
    """
    if not missing([]):
        return []
    wheels = sorted(FOLDER.glob("*.whl"))
    if wheels:
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps"]
        command += ["--no-compile", "--no-cache-dir", "--disable-pip-version-check"]
        subprocess.run([*command, "--target", to, *wheels], check=True)
    lacking = missing([to])
    if lacking:
        sys.exit(
            f"error: {sys.executable} lacks {', '.join(lacking)}; install them, or run "
            f"`make gpu-wheels` where there is a network and bring the folder {FOLDER.name}"
        )
    return [to]


def missing(places: list[Path]) -> list[str]:
    """Return the packages that training needs and neither this Python nor `places` has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = project["dependencies"] + project["optional-dependencies"]["train"]
    found = distributions(path=[*map(str, places), *sys.path])
    there = {_name(one.metadata["Name"]) for one in found}
    return [name for name in map(_name, needed) if name not in there]


def _name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-")


def _platforms() -> list[str]:
    return [f"_{number}" if "_" in number else number for number in PLATFORMS]


if __name__ == "__main__":
    main()
