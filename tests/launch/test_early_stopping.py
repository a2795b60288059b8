"""A run that ends before its last step: what it keeps, says and does when it is started again."""

import json
from pathlib import Path

from tests.commands import evaluate, train
from tests.launch.conftest import STEPS
from tests.run_folders import evaluations, measured, steps
from xmodal.runs.run import Run

STOPPING = {"patience": 2, "min_gain": 1000}
WORDS = ["evaluation.every=3 steps", "checkpoints.every=3 steps", "training.zero=1"]
WORDS += [f"training.early_stopping={json.dumps(STOPPING)}"]
KILLED = "xmodal.runs.run:Run.log:9"  # as it logs step 8, two evaluations done


def test_a_run_ends_once_and_says_why(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [recipe, f"run={run}", *WORDS]
    assert train(*words, killed_at=KILLED).code == -9
    done = train(*words)
    assert done.code == 0, done.err
    assert "Resuming from step-6" in done.out
    first = f"rsum was {evaluations(run)[3]['relevance/rsum']:.2f} at step 3"
    reason = f"{first} and has not risen by more than 1000 in 2 evaluations"
    assert f"Stopped early at step 9 of {STEPS}: {reason}" in " ".join(done.out.split())
    assert list(steps(run)) == list(range(1, 10))
    assert Run(run).latest() == Run(run).checkpoint(9)
    results = json.loads((run / "results.json").read_text())
    assert (results["ended"], results["measured"]["checkpoint"]) == (reason, "step-9")
    assert f"Stopped early: {reason}." in (run / "report" / "index.html").read_text()
    files = {path: path.read_bytes() for path in run.rglob("*.json*")}
    again = train(*words, "training.early_stopping=null", ranks=2)
    assert again.code == 0, again.err
    assert f"Stopped early at step 9 of {STEPS}: {reason}. For another" in again.out
    assert "the new training.early_stopping.patience, training.early_sto" in again.out
    assert {path: path.read_bytes() for path in run.rglob("*.json*")} == files
    assert evaluate(run).folder == run
    assert measured(run)["checkpoint"] == "step-9"
    assert json.loads((run / "results.json").read_text())["ended"] == reason


def test_what_cannot_be_watched_is_refused(recipe: Path, tmp_path: Path) -> None:
    words = [recipe, f"run={tmp_path}/run"]
    wrong = train(*words, "training.early_stopping={metric: recall@7}")
    assert wrong.error.startswith(
        "training.early_stopping.metric: unknown metric recall@7 (did you "
    )
    unmeasured = train(*words, "training.early_stopping={}", "data.val=null")
    assert unmeasured.error.startswith("training.early_stopping watches the evaluation of data.val")
    assert not (tmp_path / "run").exists()
