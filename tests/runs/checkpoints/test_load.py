"""What a run reads from its newest checkpoint."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from xmodal.runs.checkpoints.load import place_counters, read_progress
from xmodal.runs.run import STATE_FILE, Run


def test_a_checkpoint_of_before_counts_skipped_samples_under_the_old_name(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.checkpoint(4).mkdir(parents=True)
    state = {"step": 4, "left_out": 3, "retries": 1, "ranks": 2, "start": {}}
    (run.checkpoint(4) / STATE_FILE).write_text(json.dumps(state))
    (run.checkpoints / "latest").write_text("step-4")
    progress = read_progress(run)
    assert (progress.step, progress.skipped, progress.retries) == (4, 3, 1)


@pytest.mark.parametrize(("fused", "device"), [(True, "meta"), (None, "cpu")])
def test_a_fused_optimiser_s_counters_are_where_its_weights_are(fused: Any, device: str) -> None:
    weight = nn.Parameter(torch.zeros(2, device="meta"))
    optimizer: Any = SimpleNamespace(
        param_groups=[{"params": [weight], "names": ["weight"], "fused": fused}],
        state={weight: {"step": torch.tensor(7.0), "exp_avg": torch.zeros(2, device="meta")}},
    )
    engine = SimpleNamespace(optimizer=optimizer, zero_optimization_stage=lambda: 0)
    place_counters(engine)
    assert optimizer.state[weight]["step"].device.type == device
