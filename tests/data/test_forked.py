"""Forked processes begin, also where the fork leaves a child that waits forever."""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from xmodal.data.forked import fork_context

ROOT = Path(__file__).parents[2]
# The first children wait for a lock that a thread of the parent held as they were forked.
HANGING = """
import os, sys, time
from xmodal.data import forked

forked.SECONDS, hanging = 0.5, int(sys.argv[1])
reading, writing = os.pipe()
os.write(writing, b"." * hanging)
os.set_blocking(reading, False)

def wait_forever():
    try:
        os.read(reading, 1)
    except BlockingIOError:
        return
    time.sleep(1000)

os.register_at_fork(after_in_child=wait_forever)
context = forked.fork_context()
receiving, sending = context.Pipe(duplex=False)
process = context.Process(target=sending.send, args=("done",))
process.start()
print(receiving.recv())
process.join()
print(process.exitcode)
"""


def run_hanging(children: int) -> "subprocess.CompletedProcess[str]":
    """Run a script whose first `children` forked children never begin."""
    command = [sys.executable, "-c", HANGING, str(children)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)


@pytest.mark.parametrize("children", [0, 2])
def test_a_child_that_does_not_begin_is_replaced(children: int) -> None:
    result = run_hanging(children)
    assert result.stdout.split() == ["done", "0"], result.stderr


def test_children_that_never_begin_are_an_error() -> None:
    result = run_hanging(100)
    assert "5 forked processes did not begin in 0.5 s each" in result.stderr


def test_a_child_that_is_killed_at_once_has_an_exit_code() -> None:
    process = fork_context().Process(target=os._exit, args=(7,))
    process.start()
    process.join()
    assert process.exitcode == 7


def test_children_begin_while_threads_come_and_go() -> None:
    """Threads that begin and end hold the interpreter's lock on its list of threads."""
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            threading.Thread(target=int).start()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(20):
            process = fork_context().Process(target=int)
            process.start()
            process.join(60)
            assert process.exitcode == 0
    finally:
        stop.set()
        thread.join()


def test_all_processes_are_forked_here() -> None:
    """Elsewhere a fork would be one that may hang."""
    pattern = re.compile(r"os\.fork\(|\"fork\"|'fork'")
    files = [path for room in ("xmodal", "shards") for path in (ROOT / room).rglob("*.py")]
    found = [path.name for path in files if pattern.search(path.read_text())]
    assert found == ["forked.py"]


ABANDONED = """
import os, signal, time
from xmodal.data.forked import fork_context

process = fork_context().Process(target=time.sleep, args=(1000,))
process.start()
print(process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_child_ends_with_a_parent_that_is_killed() -> None:
    command = [sys.executable, "-c", ABANDONED]
    # The child holds its standard output open for as long as it lives.
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert result.returncode == -9


FREED = """
import re
import torch
from xmodal.data.forked import fork_context

def resident():
    with open("/proc/self/status") as file:
        print(re.search(r"VmRSS:\\s+(\\d+)", file.read())[1], flush=True)

resident()
tensors = [torch.ones(2**18) for _ in range(400)]  # a MiB each
del tensors[:-1]  # the last one keeps the others' memory from the system
resident()
process = fork_context().Process(target=resident)
process.start()
process.join()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_child_does_not_inherit_freed_memory() -> None:
    """Else it is copied once the parent writes to it again."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**30)}  # as after large tensors
    command = [sys.executable, "-c", FREED]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=ROOT, env=environment
    )
    begun, freed, child = (int(number) / 1024 for number in result.stdout.split())
    assert freed > begun + 300, "the C library gives back freed memory by itself"
    assert child < begun + 100
