"""A run in which a rank hangs, or is gone, ends so that it is started again."""

import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.commands import by_launcher, train
from tests.processes import find_process
from tests.run_folders import AGREE, STEP, wait_for_disk
from tests.services.daemons import until
from xmodal.distributed.environment import REDUCES
from xmodal.distributed.rendezvous import Rendezvous
from xmodal.runs.run import Run, read_state


def hang(step: int, trainer: Any, *_: Any) -> None:
    if trainer.progress.step + 1 == step and trainer.environment.rank == 1:
        time.sleep(60)


def test_what_hangs_says_where_and_ends(recipe: Path, tmp_path: Path) -> None:
    before = {STEP: partial(hang, 8), AGREE: wait_for_disk}
    given = (recipe, f"run={tmp_path}/run", "training.watchdog=3")
    done = train(*given, ranks=2, before=before)
    assert done.code == 75, done
    for rank in (0, 1):
        assert f"error: rank {rank} (" in done.err
    assert done.err.count("has waited longer than 3 s for step 8 (stage main); its stacks") == 2
    assert f'File "{__file__}", line' in done.err  # where rank 1 hangs
    assert "in all_gather" in done.err  # where rank 0 waits for it
    newest = Run(tmp_path / "run").latest()
    assert newest
    assert newest.name == "step-6"
    assert read_state(newest)["start"] == {"job": None, "restart": 0}


def hang_after_the_rendezvous(rendezvous: Rendezvous, place: str) -> None:
    if rendezvous.rank == 1 and place == REDUCES:
        time.sleep(60)


def test_a_rank_that_does_not_come_to_the_first_all_reduce_is_named(
    recipe: Path, tmp_path: Path
) -> None:
    before = {"xmodal.distributed.rendezvous:Rendezvous.note": hang_after_the_rendezvous}
    given = (recipe, f"run={tmp_path}/run", "training.rendezvous_timeout=5")
    done = train(*given, ranks=2, before=before, environment={"XMODAL_NODES": "n1 n2"})
    assert done.code == 75, done
    assert re.search(
        r"^error: rank [01] \(.*\) has waited longer than 5 s for the first all-reduce, "
        r"which rank 1 \(node n2\) did not reach; its stacks:",
        done.err,
        re.MULTILINE,
    )
    assert not (tmp_path / "run").exists()


def stop_on_rank_0(rendezvous: Rendezvous, *_: object) -> None:
    if rendezvous.rank == 0:
        os.kill(os.getpid(), signal.SIGSTOP)


@pytest.mark.slow
def test_a_first_rank_that_stops_in_the_rendezvous_is_named(recipe: Path, tmp_path: Path) -> None:
    """Where all meet then, there is nobody who could tell."""
    before = {"xmodal.distributed.rendezvous:Rendezvous.wait": stop_on_rank_0}
    given = (recipe, f"run={tmp_path}/run", "training.rendezvous_timeout=5")
    done = train(*given, ranks=2, before=before)
    assert done.code == 75, done
    assert re.search(
        r"^error: rank 1.*( for the rendezvous with rank 0|: rank 0 did not answer)",
        done.err,
        re.MULTILINE,
    )


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_is_no_bug_of_the_others(rank: int, recipe: Path, tmp_path: Path) -> None:
    """Under DeepSpeed's launcher, which ends with the code of the rank that fails first."""
    run = Run(tmp_path / "run")
    given = (str(recipe), f"run={run.path}", "stages.0.length=3000 steps", "data.val=null")
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(by_launcher, *given)
        until(lambda: len(run.history()) > 5, 120, "steps")
        find_process(f"run={run.path}", RANK=str(rank)).kill()
        ended = done.result()
    assert ended.returncode not in (0, 1, 2), ended
    assert f"error: rank {1 - rank}: the connection to another rank is lost (" in ended.stderr
    assert "Traceback" not in ended.stderr
