"""Several processes that meet in one gloo group, as the ranks of a job do."""

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist

# Ranks are forked from a process that has imported what is slow to import and done nothing else.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.preload"])


def on_ranks(ranks: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call a function of a test module on every rank and return what each rank returned.

    Fails with the ranks' tracebacks where one raises, or takes longer than three minutes.
    """
    with tempfile.TemporaryDirectory() as folder:
        torch.save((function, arguments), Path(folder, "call.pt"))
        processes = [
            CONTEXT.Process(target=_work, args=(folder, rank, ranks)) for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(180)
            process.kill()
        failed = [path.read_text() for path in sorted(Path(folder).glob("*.failed"))]
        assert not failed, "\n".join(failed)
        return [torch.load(Path(folder, f"{rank}.pt"), weights_only=False) for rank in range(ranks)]


def find_process(*words: str, **variables: str) -> psutil.Process:
    """Return the process that was started with these words and variables, not a shell that waits
    for it; `LookupError` if none.
    """
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # it has ended, or is somebody else's
            given, held = process.cmdline(), process.environ()
            named = set(words) <= set(given) and variables.items() <= held.items()
            if named and not given[0].endswith("bash"):
                return process
    raise LookupError(f"{words} {variables}")


def _work(folder: str, rank: int, ranks: int) -> None:
    torch.set_num_threads(1)
    try:
        function, arguments = torch.load(Path(folder, "call.pt"), weights_only=False)
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder}/meeting",
            rank=rank,
            world_size=ranks,
            timeout=timedelta(seconds=170),
        )
        torch.save(function(*arguments), Path(folder, f"{rank}.pt"))
        dist.barrier()
    except BaseException:
        Path(folder, f"{rank}.failed").write_text(f"rank {rank}:\n{traceback.format_exc()}")
        os._exit(1)
