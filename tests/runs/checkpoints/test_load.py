"""Progress of a run, read from its newest checkpoint."""

import json
from pathlib import Path

from xmodal.runs.checkpoints.load import read_progress
from xmodal.runs.run import STATE_FILE, Run


def test_a_checkpoint_of_before_counts_skipped_samples_under_the_old_name(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.checkpoint(4).mkdir(parents=True)
    state = {"step": 4, "left_out": 3, "retries": 1, "ranks": 2, "start": {}}
    (run.checkpoint(4) / STATE_FILE).write_text(json.dumps(state))
    (run.checkpoints / "latest").write_text("step-4")
    progress = read_progress(run)
    assert (progress.step, progress.skipped, progress.retries) == (4, 3, 1)
