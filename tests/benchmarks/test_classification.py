"""Zero-shot classification and retrieval are measured as clip_benchmark measures them."""

from pathlib import Path

import pytest

from benchmarks.classification import SAME, TOLERANCE, measure_both


@pytest.mark.slow
@pytest.mark.usefixtures("references")
def test_metrics_are_those_of_clip_benchmark(tmp_path: Path) -> None:
    theirs, ours = measure_both(tmp_path, 240)
    assert ours == pytest.approx(theirs, abs=TOLERANCE, rel=0)
    assert all(0 < theirs[name] < 1 for name in SAME)
