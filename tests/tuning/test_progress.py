"""What a sweep shows while nothing has been measured."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from xmodal.runs.run import Run
from xmodal.tuning.sweep import Supply, Sweep


def test_a_sweep_shows_how_far_its_trials_are(tmp_path: Path) -> None:
    sweep: Any = Sweep.__new__(Sweep)
    sweep.journal = SimpleNamespace(trials={"000": SimpleNamespace(end="finished")})
    sweep.plan = SimpleNamespace(
        space=SimpleNamespace(trials=3), run=lambda name: Run(tmp_path / name)
    )
    (tmp_path / "001").mkdir()
    Run(tmp_path / "001").log({"step": 1200, "loss": 2.5})
    supply = cast(Supply, SimpleNamespace(running={"002", "001"}))
    assert sweep._state(supply) == (
        "1 of 3 trials are over; trial 001 at step 1,200; trial 002 starting"
    )
