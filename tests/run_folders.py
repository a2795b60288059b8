"""What a run folder holds, and what ranks note of a run that is under way."""

import gc
import json
import logging
import re
import threading
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xmodal.runs.checkpoints.load import load_weights
from xmodal.runs.run import Run

START = "xmodal.training.trainer:Trainer._start_stage"
STEP = "xmodal.training.trainer:Trainer._step"
AGREE = "xmodal.training.trainer:Trainer.reduce_step_stats"  # within a step
READ = "xmodal.data.storage.s3:S3Storage.read"


def steps(run: Path, name: str = "loss") -> dict[int, float]:
    """Return a value of every logged training step, each of which is there once."""
    rows = [row for row in Run(run).history() if "loss" in row]
    numbers = [row["step"] for row in rows]
    assert numbers == sorted(set(numbers))
    return {row["step"]: row[name] for row in rows}


def evaluations(run: Path) -> dict[int, dict[str, float]]:
    """Return the metrics of every logged evaluation, each of which is there once."""
    rows = [row for row in Run(run).history() if "loss" not in row]
    found = {row.pop("step"): row for row in rows if row.pop("stage")}
    assert len(found) == len(rows)
    return found


def results(folder: Path) -> dict[str, float]:
    """Return the metrics that a folder holds."""
    found = json.loads((folder / "results.json").read_text())
    del found["measured"]
    assert all(isinstance(value, float) for value in found.values())
    return found


def measured(folder: Path) -> dict[str, Any]:
    """Return what the results of a folder are of."""
    return json.loads((folder / "results.json").read_text())["measured"]


def shown_steps(run: Path) -> list[int]:
    """Return the steps whose loss TensorBoard shows, in its order."""
    # What is called from here within a command shall not wait for this.
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    warnings: list[str] = []
    heard = logging.getLogger("tensorboard")
    listener = logging.Handler(logging.WARNING)
    listener.emit = lambda record: warnings.append(record.getMessage())
    heard.addHandler(listener)
    board = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    heard.removeHandler(listener)
    assert warnings == []
    return [event.step for event in board.Scalars("loss")]


def weights(run: Path, step: int, zero: int = 0) -> dict[str, Tensor]:
    """Return the weights of a checkpoint."""
    kept: dict[str, Tensor] = {}

    class Keeper(torch.nn.Module):
        def load_state_dict(self, state: Any) -> None:  # type: ignore[override]
            kept.update(state)

    load_weights(Keeper(), Run(run).checkpoint(step), zero)
    return kept


def kept_checkpoints(run: Path) -> set[str]:
    return {path.name for path in (run / "checkpoints").iterdir()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Return the parts, two names deep, of which some weight is another one."""
    assert before.keys() == after.keys()
    names = [name for name in before if not torch.equal(before[name], after[name])]
    return {".".join(name.split(".")[:2]) for name in names}


def note_ids(folder: Path, trainer: Any, engine: Any, batch: Any, span: Any) -> None:
    """Note which samples a rank is about to take a step on; to be called before `STEP`."""
    row = {"step": trainer.progress.step + 1, "ids": batch.image_ids.tolist()}
    with (folder / str(trainer.environment.rank)).open("a") as file:
        file.write(json.dumps(row) + "\n")


def noted_ids(folder: Path) -> dict[int, list[int]]:
    """Return the ids of each step's global batch, in the plan's order, as all ranks noted them."""
    files = [path.read_text().splitlines() for path in sorted(folder.iterdir())]
    ranks = [{row["step"]: row["ids"] for row in map(json.loads, lines)} for lines in files]
    return {
        step: [id_ for row in zip(*(rank[step] for rank in ranks), strict=True) for id_ in row]
        for step in ranks[0]
        if all(step in rank for rank in ranks)
    }


def wait_for_disk(trainer: Any, *_: Any) -> None:
    """Wait until this rank has written what it saves; to be called before `AGREE`."""
    saving = trainer.checkpointing.saving
    if saving is not None:
        saving.writer.wait()


def note_memory(folder: Path, trainer: Any, span: Any) -> None:
    """Note what a rank keeps in memory as a stage starts; to be called before `START`."""
    held = [one for one in gc.get_objects() if isinstance(one, torch.Tensor | torch.nn.Module)]
    path = folder / str(trainer.environment.rank)
    noted = path.read_text().splitlines() if path.exists() else []
    row = {
        "engines": sum(type(one).__name__ == "DeepSpeedEngine" for one in held),
        "bytes": sum(one.nbytes for one in held if isinstance(one, torch.Tensor)),
        "threads": sorted(one.name for one in threading.enumerate()),
        "system threads": _system_threads([json.loads(one)["system threads"] for one in noted]),
        "resident": int(re.search(r"VmRSS:\s*(\d+)", Path("/proc/self/status").read_text())[1]),
    }
    with path.open("a") as file:
        file.write(json.dumps(row | {"stage": span.number}) + "\n")


def _system_threads(before: list[int]) -> int:
    """Return the number of threads of the process, given an earlier one: no more, unless they stay.

    The system takes its time to end a thread that has been joined, on a busy machine most of all.
    In the first two stages threads start that stay.
    """
    for _ in range(200):
        count = len(list(Path("/proc/self/task").iterdir()))
        if count <= min(before[2:], default=count):
            break
        time.sleep(0.05)
    return count


def noted_memory(folder: Path) -> list[list[dict[str, Any]]]:
    """Return what each rank kept in memory as its stages started."""
    return [
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(folder.iterdir())
    ]


def note_read(file: Path, storage: Any, url: str, *_: Any) -> None:
    """Note when a process begins to read from a bucket; to be called before `READ`."""
    with file.open("a") as lines:
        lines.write(f"{time.monotonic()} {url}\n")


def noted_reads(file: Path) -> list[tuple[float, str]]:
    """Return when which URL was read, in the order in which it was noted."""
    lines = [line.split(" ", 1) for line in file.read_text().splitlines()]
    return [(float(moment), url) for moment, url in lines]


def pause_at(step: int, folder: Path, trainer: Any, *_: Any) -> None:
    """Make the file `paused` before a step of rank 0, and wait for `go`."""
    if trainer.progress.step + 1 == step and trainer.environment.is_main:
        (folder / "paused").touch()
        while not (folder / "go").exists():
            time.sleep(0.01)
