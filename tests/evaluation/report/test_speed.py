"""Speed on the page and in the log is that of the last stage, without its slow beginning."""

from typing import Any

import pytest

from xmodal.evaluation.report.speed import mean_speed, speed_line, speed_section


def row(stage: str, rate: float, data: float, memory: float = 1.0) -> dict[str, Any]:
    return {
        "stage": stage,
        "samples_per_second": rate,
        "mfu": 0.4,
        "peak_memory_gb": memory,
        "time/data": data,
        "time/forward": 0.996 - data,
        "time/other": 0.004,
    }


HISTORY = [
    row("first", 1, 0.9),
    row("second", 2, 0.8),
    row("second", 100, 0.2, memory=2.0),
    {"stage": "second", "recall@1": 50.0},
    row("second", 300, 0.4, memory=3.0),
]


def test_the_first_row_of_a_stage_does_not_count() -> None:
    speed = mean_speed(HISTORY)
    assert speed["samples_per_second"] == 200
    assert speed["time/data"] == pytest.approx(0.3)
    assert speed["peak_memory_gb"] == 3.0
    assert mean_speed(HISTORY[:2])["samples_per_second"] == 2


def test_a_line_has_the_phases_that_take_time() -> None:
    assert speed_line(mean_speed(HISTORY)) == "data 30%, forward 70%"
    assert speed_line({}) == ""


def test_a_section_has_every_figure() -> None:
    section = speed_section(HISTORY)
    assert section is not None
    rows = {one.label: one.cells[0] for one in section.rows}
    assert (rows["samples a second"], rows["MFU"], rows["time: data"]) == ("200", "40.0%", "30.0%")
    assert rows["time: other"] == "0.4%"


def test_runs_of_before_have_no_section() -> None:
    assert speed_section([{"step": 1, "stage": "main", "samples_per_second": 3.0}]) is None
    assert speed_section([]) is None
