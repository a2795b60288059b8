"""Data that change under a run: what `launch/train.py` makes of them."""

import json
import shutil
from pathlib import Path

import pytest

from tests.commands import train


def test_a_run_is_not_resumed_on_other_data_unless_asked_to(
    recipe: Path, scenes: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(scenes / "train", data)
    command = [recipe, f"run={tmp_path}/run", f"data.train={data}", "data.val=null"]
    command += ["stages.0.length=1 epochs", "checkpoints.every=2 steps", "checkpoints.keep_last=9"]
    assert train(*command).code == 0
    index = data / "shardindex.json"
    document = json.loads(index.read_text())
    # The same shard a second time: twice the samples, and so other epochs.
    shutil.copy(data / "train-000000.tar", data / "other.tar")
    shutil.copy(data / "train-000000.idx", data / "other.idx")
    document["shardlist"].append(document["shardlist"][0] | {"url": "other.tar"})
    index.write_text(json.dumps(document))

    finished = train(*command)
    assert finished.code == 0
    assert "warning: data.train changed since the run finished" in finished.out
    assert "Finished: step 6 of 6" in finished.out

    (tmp_path / "run/checkpoints/latest").write_text("step-2")
    line = train(*command).error
    assert line.startswith(f"data.train changed since step 2 of run={tmp_path}/run ({data}: 1 sh")
    accepted = train(*command, line.rpartition(" by ")[2])
    assert accepted.code == 0
    assert "12 steps in all, 6 before, and schedules follow" in accepted.out
    assert "step 12/12" in accepted.out


@pytest.mark.slow
def test_averages_of_samples_do_not_continue_on_other_data(
    recipe: Path, scenes: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(scenes / "train", data)
    command = [recipe, f"run={tmp_path}/run", f"data.train={data}", "data.val=null"]
    command += ["stages.0.length=4 steps", "checkpoints.every=2 steps", "checkpoints.keep_last=9"]
    command += ["method.objective.kind=global_contrastive"]
    assert train(*command).code == 0
    (tmp_path / "run/checkpoints/latest").write_text("step-2")
    index = data / "shardindex.json"
    document = json.loads(index.read_text())
    shutil.copy(data / "train-000000.tar", data / "other.tar")
    shutil.copy(data / "train-000000.idx", data / "other.idx")
    document["shardlist"].append(document["shardlist"][0] | {"url": "other.tar"})
    index.write_text(json.dumps(document))
    accept = train(*command).error.rpartition(" by ")[2]
    assert "the objective keeps averages of its samples by their numbers" in (
        train(*command, accept).error
    )
