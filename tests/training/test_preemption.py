"""Requests to stop: the loss of the launcher."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.services.daemons import until
from xmodal.training.preemption import Preemption

RANK = """
import time
from xmodal.training.preemption import Preemption
preemption = Preemption()
print(preemption.asked, flush=True)
while not preemption.asked:
    time.sleep(0.05)
print("asked", flush=True)
"""
# Starts the next of some programs and waits for it, as a launcher does.
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"


@pytest.mark.parametrize("gone", [0, 1])
def test_a_launcher_that_is_gone_is_a_request_to_stop(gone: int, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", PARENT, PARENT, RANK]
    with out.open("w") as file:
        outer = subprocess.Popen(command, stdout=file, env=os.environ | {"CROSS_RANK": "0"})
    until(lambda: out.read_text() == "False\n", 60, "the rank")
    family = [psutil.Process(outer.pid), *psutil.Process(outer.pid).children(recursive=True)]
    try:
        family[gone].kill()
        outer.wait()
        until(lambda: "asked" in out.read_text(), 60, "the rank to notice")
    finally:
        for process in family[1:]:
            if process.is_running():
                process.kill()


def test_the_end_of_a_shell_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    preemption = Preemption()
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert not preemption.asked
