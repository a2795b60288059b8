"""No rank waits for one that is gone, and none is hurried that lives."""

import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch.distributed as dist

from tests.commands import free_port
from tests.processes import CONTEXT
from xmodal.distributed import watchdog
from xmodal.distributed.pulse import watching_peers
from xmodal.distributed.rendezvous import join_rendezvous

SECONDS = 2.0


def live(rank: int, port: int, folder: Path, act: Callable[[int, Path], None]) -> None:
    watchdog.SECONDS_TO_SPEAK = 0
    os.dup2(os.open(folder / f"{rank}", os.O_WRONLY | os.O_CREAT), 2)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank))
    rendezvous = join_rendezvous(rank, 2, 30)
    with watching_peers(rendezvous, SECONDS):
        act(rank, folder)


def lives(folder: Path, act: Callable[[int, Path], None]) -> tuple[list[int | None], list[str]]:
    """Have two ranks act, to their end or for half a minute; return how they ended, and said."""
    port = free_port()
    ranks = [CONTEXT.Process(target=live, args=(rank, port, folder, act)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    deadline = time.monotonic() + 40
    while not any(process.exitcode == 75 for process in ranks) and time.monotonic() < deadline:
        time.sleep(0.05)
        if all(process.exitcode is not None for process in ranks):
            break
    codes = [process.exitcode for process in ranks]
    for process in ranks:
        process.kill()
        process.join()
    return codes, [(folder / str(rank)).read_text() for rank in (0, 1)]


def make_group(rank: int, folder: Path, *, gone: int, how: int) -> None:
    """Make a group that one rank never joins."""
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    if rank == gone:
        os.kill(os.getpid(), how)
    dist.new_group(timeout=timedelta(minutes=30))


@pytest.mark.parametrize(
    ("gone", "how"), [(0, signal.SIGKILL), (1, signal.SIGKILL), (0, signal.SIGSTOP)]
)
def test_a_rank_that_is_gone_is_not_waited_for(gone: int, how: int, tmp_path: Path) -> None:
    codes, said = lives(tmp_path, partial(make_group, gone=gone, how=how))
    assert codes[1 - gone] == 75, said
    assert f" s for a heartbeat of rank {gone}; its stacks" in said[1 - gone]
    assert "new_group" in said[1 - gone]  # where it stands


def work_long(rank: int, folder: Path) -> None:
    time.sleep(2.5 * SECONDS * rank)


def test_a_rank_that_lives_may_take_its_time(tmp_path: Path) -> None:
    codes, said = lives(tmp_path, work_long)
    assert codes == [0, 0], said
