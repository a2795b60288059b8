"""Weights in files of a local disk: runs are those in memory, and continue without disks."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.commands import train
from tests.launch.test_elastic import KILLED, assert_close, go_on
from tests.launch.test_engine_options import trained
from tests.launch.test_state_on_disks import LARGE
from tests.run_folders import STEP, steps

pytestmark = pytest.mark.slow

# Few weights are whole at a time, and none from one use to the next.
SMALL = "persistence_threshold: 99, max_live_parameters: 9999, max_reuse_distance: 0"
IN_MEMORY = f"training.zero={{stage: 3, {SMALL}}}"
STAGES = [
    # Parts are locked, whose weights have files of their own.
    {"name": "heads", "length": "8 steps", "train": ["text", "image.head", "loss"]},
    {"name": "all", "length": "16 steps", "ema": {"decay": 0.9}},
]
FLOAT32 = [f"stages={json.dumps(STAGES)}", "data.micro_batch_size=8"]
BF16 = ["training.precision=bf16_weights"]


def on_disks(folder: Path, optimizer: str = "null") -> str:
    folder.mkdir(exist_ok=True)
    weights = f"offload_parameters: {{device: nvme, path: {folder}}}"
    return f"training.zero={{stage: 3, {SMALL}, {weights}, offload_optimizer: {optimizer}}}"


def note_shares(folder: Path, trainer: Any, engine: Any, *_: Any) -> None:
    """Note how many shares of weights lie in files that are there, and the names of all others."""
    mapped = [
        range(*(int(end, 16) for end in line.split()[0].split("-")))
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "/xmodal-state-" in line
    ]
    shares = {
        name: any(one.ds_tensor.data_ptr() in span for span in mapped)
        for name, one in engine.module.named_parameters()
        if one.requires_grad or not one.ds_persist
    }
    others = [name for name, is_mapped in shares.items() if not is_mapped]
    row = {"shares": len(shares), "others": others, "files": len(mapped)}
    with (folder / str(trainer.environment.rank)).open("a") as file:
        file.write(json.dumps(row | {"there": _files(engine.folders)}) + "\n")


def _files(folders: dict[str, Any]) -> int:
    return sum(one.stat().st_size > 0 for one in folders["offload_parameters"].path.glob("*-*"))


@pytest.mark.parametrize("given", [FLOAT32, BF16])
@pytest.mark.parametrize("optimizer", ["null", "cpu"])
def test_a_run_is_the_one_in_memory(
    recipe: Path, tmp_path: Path, given: list[str], optimizer: str
) -> None:
    memory = f"training.zero={{stage: 3, {SMALL}, offload_optimizer: {optimizer}}}"
    plain = trained(tmp_path / "plain", recipe, *given, memory, every=8)
    folder, disk, noted = tmp_path / "run", tmp_path / "disk", tmp_path / "noted"
    noted.mkdir()
    done = train(
        *(recipe, *given, on_disks(disk, optimizer), f"run={folder}", "data.val=null"),
        ranks=2,
        before={STEP: partial(note_shares, noted)},
    )
    assert done.code == 0, done.err
    assert steps(folder) == steps(plain)
    for rank in ("0", "1"):
        rows = [json.loads(line) for line in (noted / rank).read_text().splitlines()]
        assert len(rows) == 24
        for row in rows:
            assert row["shares"] > 20
            assert not row["others"]
            assert row["there"] == row["files"]  # those of a stage before are unmapped
    assert not list(disk.glob("xmodal-state-*/"))


@pytest.mark.parametrize(("given", "ranks"), [(FLOAT32, 2), (FLOAT32, 1), (BF16, 2)])
def test_a_killed_run_resumes_there_and_without_a_disk(
    recipe: Path, tmp_path: Path, given: list[str], ranks: int
) -> None:
    plain = trained(tmp_path / "plain", recipe, *given, IN_MEMORY, every=8)
    folder, disk = tmp_path / "run", tmp_path / "disk"
    words = (recipe, *given, f"run={folder}", "data.val=null", "checkpoints.every=8 steps")
    done = train(*words, on_disks(disk), ranks=2, killed_at=KILLED.format(20))
    assert done.code == -9, done.err
    assert list(disk.glob("xmodal-state-*/group-0"))
    done = train(*words, on_disks(disk) if ranks == 2 else IN_MEMORY, ranks=ranks)
    assert done.code == 0, done.err
    assert "Resuming from step-16" in done.out
    assert assert_close(folder, plain) < 1e-5
    if ranks == 2:
        assert steps(folder) == steps(plain)
        assert not list(disk.glob("xmodal-state-*/"))  # the killed one's neither


def test_the_optimiser_lies_there_too(recipe: Path, tmp_path: Path) -> None:
    words = [recipe, *LARGE]
    plain = trained(tmp_path / "plain", *words, IN_MEMORY, every=8)
    folder, disk = tmp_path / "run", tmp_path / "disk"
    optimizer = f"{{device: nvme, path: {disk}}}"
    go_on(folder, *words, on_disks(disk, optimizer), ranks=(2, 1), every=8)
    assert assert_close(folder, plain) < 1e-5
    assert not list(disk.glob("xmodal-state-*/"))
