"""Measurements in processes of their own, and rows of ours beside a peer."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

HERE = Path(__file__).parent
PEERS = HERE.parent / ".venv-peers" / "bin" / "python"
console = Console(width=120)


def require_peers() -> None:
    """Exit with a line about what to do if the peers are not installed."""
    if not PEERS.exists():
        sys.exit("error: .venv-peers is missing: run `make bench`, which makes it")


def run(command: list[str], places: list[dict[str, str]]) -> dict[str, Any]:
    """Run a command on every rank, and return the JSON that rank 0 prints."""
    # A peer may warn of what it calls in a newer torch; errors are shown.
    variables = os.environ | {"PYTHONWARNINGS": "ignore"}
    ranks = [
        subprocess.Popen(
            command, env=variables | place, text=True, stdout=subprocess.PIPE, cwd=HERE.parent
        )
        for place in places
    ]
    outputs = [process.communicate()[0] for process in ranks]
    if any(process.returncode for process in ranks):
        sys.exit(f"error: {' '.join(command)} failed; its message is above")
    found: dict[str, Any] = json.loads(outputs[0].splitlines()[-1])
    return found


def row(name: str, ours: float, peer: float, unit: str, hardware: str) -> dict[str, Any]:
    """Return a row of results; of times and memory a ratio under 1 is better, of rates over 1."""
    return {
        "name": name,
        "ours": ours,
        "peer": peer,
        "ratio": ours / peer,
        "unit": unit,
        "hardware": hardware,
    }


def say(one: dict[str, Any], peer: str = "peer") -> None:
    """Print a row."""
    console.print(
        f"{one['name']:32} ours {one['ours']:10,.2f} {one['unit']:3}   {peer} {one['peer']:10,.2f} "
        f"{one['unit']:3}   ratio {one['ratio']:.3f} (1/{1 / one['ratio']:.1f})",
        highlight=False,
    )
