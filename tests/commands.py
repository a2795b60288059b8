"""The commands of launch/, run as a user runs them: a process with arguments, output, exit code.

They are forked from a process that has imported what is slow to import, which saves each of them
seven seconds, and so are the ranks of a job, in place of a launcher.
"""

import importlib
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch

from tests.processes import CONTEXT
from tests.run_folders import AGREE, wait_for_disk

ROOT = Path(__file__).parents[1]

# Functions of light test modules by what they are called before, such as `MODULE:CLASS.METHOD`.
Before = Mapping[str, Callable[..., None]]


@dataclass
class Done:
    """What a command left: its exit code (-9 if it was killed) and what it printed."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line on a mistake that the user can mend; fails where there is anything else."""
        assert self.code == 2, self
        assert self.err.startswith("error: "), self
        assert self.err.count("\n") == 1, self
        return self.err.removeprefix("error: ").strip()

    @property
    def folder(self) -> Path:
        """The folder whose report a command says that it wrote."""
        assert self.code == 0, self
        page = Path(self.out.rpartition("report: ")[2].splitlines()[0])
        assert page.is_file()
        return page.parents[1]


def run(
    script: str,
    *arguments: object,
    ranks: int = 1,
    killed_at: str = "",
    before: Before | None = None,
    environment: Mapping[str, str] | None = None,
    seconds: float = 240,
    launcher: bool = True,
) -> Done:
    """Run `launch/SCRIPT` to its end on so many ranks, for so many seconds at most.

    As with a launcher, the first rank that fails ends the others, or else they have to end by
    themselves. With `killed_at`, such as
    `xmodal.runs.run:Run.log:3`, rank 0 is killed (kill -9) as it calls that for the third time;
    what it has begun to save is whole after one more step, however slow the disk.
    Each rank calls what `before` names before each call of it, with the same arguments.
    """
    words = [str(ROOT / "launch" / script), *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        processes = []
        for rank in map(str, range(ranks)):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": str(ranks)} | address
            variables = dict(environment or {}) | (place if ranks > 1 else {})
            first = {AGREE: wait_for_disk, **(before or {})} if killed_at else before or {}
            given = (words, variables, folder, "" if int(rank) else killed_at, first)
            processes.append(CONTEXT.Process(target=_work, args=given))
            processes[-1].start()
        deadline = time.monotonic() + seconds
        while None in (codes := [process.exitcode for process in processes]):
            if (launcher and any(codes)) or time.monotonic() > deadline:
                break
            time.sleep(0.02)
        for process in processes:
            process.kill()
            process.join()
        code = next(filter(None, [*codes, *(process.exitcode for process in processes)]), 0)
        return Done(code, Path(folder, "out").read_text(), Path(folder, "err").read_text())


def train(*arguments: object, **options: Any) -> Done:
    """Run launch/train.py; the options are those of `run`."""
    return run("train.py", *arguments, **options)


def evaluate(*arguments: object, **options: Any) -> Done:
    """Run launch/evaluate.py; the options are those of `run`."""
    return run("evaluate.py", *arguments, **options)


def embed(*arguments: object, **options: Any) -> Done:
    """Run launch/embed.py; the options are those of `run`."""
    return run("embed.py", *arguments, **options)


def by_launcher(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run launch/train.py by DeepSpeed's launcher on two processes."""
    launcher = [str(Path(sys.executable).with_name("deepspeed")), "--num_accelerators=2"]
    launcher += ["--log_level=critical", f"--master_port={free_port()}"]
    return subprocess.run(
        [*launcher, str(ROOT / "launch" / "train.py"), *arguments],
        env=os.environ
        | {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _work(
    words: list[str], variables: dict[str, str], folder: str, killed_at: str, before: Before
) -> None:
    os.environ.update(variables)
    for descriptor, name in ((1, "out"), (2, "err")):
        file = os.open(Path(folder, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, descriptor)
    torch.set_num_threads(1)
    for place, first in before.items():
        _call_before(place, first)
    if killed_at:
        place, _, number = killed_at.rpartition(":")
        _call_before(place, _killer(int(number)))
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


def _call_before(place: str, first: Callable[..., None]) -> None:
    """Have a function call another one first, with its own arguments."""
    module, name = place.split(":")
    *owners, last = name.split(".")
    owner = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    called = getattr(owner, last)

    def both(*arguments: object, **named: object) -> object:
        first(*arguments, **named)
        return called(*arguments, **named)

    setattr(owner, last, both)


def _killer(number: int) -> Callable[..., None]:
    """Return what kills its process when it is called for the so-manieth time."""
    calls = count(1)

    def kill(*_: object, **__: object) -> None:
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return kill
