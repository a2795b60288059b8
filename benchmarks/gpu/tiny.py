"""Runs of a tiny recipe by the commands of launch/, on a GPU and on the CPU beside it."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.runner import ROOT, kill
from xmodal.runs.run import Run

RECIPE = "benchmarks/gpu/tiny.yaml"
COUNTS = {"train": 256, "val": 96, "composed_train": 64}  # scenes of each split
ON_CPU = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
CommandError = subprocess.CalledProcessError


def scenes(work: Path) -> Path:
    """Return the folder of drawn scenes that sections share, drawn if it is not there yet."""
    folder = work / "scenes"
    if not folder.exists():
        counts = [f"{split}={count}" for split, count in COUNTS.items()]
        splits = [word for split in COUNTS for word in ("--split", split)]
        command("-m", "shards", "build", "scenes", "--to", folder, *splits, *counts)
    return folder


def words(work: Path, run: Path, *overrides: str) -> list[str]:
    """Return the words after `launch/train.py` that train the recipe into a run folder."""
    data = [f"data.{name}={scenes(work)}/{name}" for name in ("train", "val")]
    return ["launch/train.py", RECIPE, f"run={run}", *data, *overrides]


def command(*words: object, variables: dict[str, str] | None = None) -> str:
    """Run a command of Python's to its end and return what it printed.

    Raises `CommandError`, what it wrote to stderr having been shown.
    """
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        env=os.environ | (variables or {}),
        text=True,
        stdout=subprocess.PIPE,
        check=True,
    )
    return done.stdout


def launched(*words: object) -> None:
    """Run a command by DeepSpeed's launcher on one device."""
    options = ["--num_accelerators=1", f"--master_port={_free_port()}"]
    command("-m", "deepspeed.launcher.runner", *options, *words)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def killed(words: Sequence[str], when: Callable[[], bool]) -> bool:
    """Start a command and kill it (kill -9) once `when` returns True; return whether it was."""
    with subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if when():
                kill(process)
                return True
            time.sleep(0.005)
    return False


def losses(run: Path) -> dict[int, float]:
    """Return the loss of every logged step."""
    return {row["step"]: row["loss"] for row in history(run) if "loss" in row}


def history(run: Path) -> list[dict[str, Any]]:
    """Return all that a run has logged."""
    return Run(run).history() if run.exists() else []
