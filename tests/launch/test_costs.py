"""A run on two ranks shows what its steps cost, and profiles those that it is asked to."""

import gzip
import json
from pathlib import Path

import pytest

from tests.commands import train
from xmodal.phases import PHASES
from xmodal.runs.run import Run


def test_two_ranks_show_their_costs_and_one_of_them_writes_a_profile(
    recipe: Path, tmp_path: Path
) -> None:
    done = train(
        *(recipe, f"run={tmp_path}/run", "stages.0.length=5 steps", "training.zero=2"),
        *("data.micro_batch_size=8", "training.log_every=1", "training.profile={at: 3, steps: 2}"),
        ranks=2,
    )
    assert done.code == 0, done.err
    assert done.err == ""
    rows = [row for row in Run(tmp_path / "run").history() if "loss" in row]
    assert len(rows) == 5
    for row in rows:
        shares = {name: row[f"time/{name}"] for name in PHASES}
        assert sum(shares.values()) == pytest.approx(1)
        working = ("forward", "objective", "backward", "communication", "optimiser")
        assert all(shares[name] > 0 for name in working)
        assert row["samples_per_second_per_device"] == row["samples_per_second"] / 2
        assert row["tflops_per_device"] > 0
    assert done.out.count("main: time by phase: ") == 1
    assert done.out.count("Profiled 2 steps: ") == 1
    (trace,) = (tmp_path / "run" / "profile").iterdir()
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    assert {"forward", "objective", "backward", "communication"} <= {
        event.get("name") for event in events
    }
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "Speed and where the time went" in page
    assert "time: communication" in page
