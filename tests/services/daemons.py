"""Programs that serve tests: found, started as children that die with us, and waited for."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path


def find_program(name: str) -> str | None:
    """Return where a program lies: also in sbin, which a user's PATH may lack."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody listens on."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@contextmanager
def daemon(
    folder: Path,
    program: str,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    orphaned: str = "TERM",
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a program in the foreground of a child that dies with this process, however it dies.

    It is then sent the signal `orphaned`. What it prints goes to PROGRAM.out in the folder.
    """
    with (folder / f"{program}.out").open("ab") as out:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", orphaned, str(find_program(program)), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=environment,
            start_new_session=True,  # Ctrl-C is for us alone: what they serve is ended first
        )
    try:
        yield process
    finally:
        end(process)


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a daemon, by force when it does not listen."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def until(
    done: Callable[[], bool], seconds: float, what: str, said_in: Sequence[Path] = ()
) -> None:
    """Wait until `done()`; the error when it takes too long quotes the ends of the files."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            said = [file.read_text(errors="replace")[-2000:] for file in said_in]
            raise TimeoutError("\n".join([f"waited {seconds:g} s for {what}", *said]))
        time.sleep(0.2)
