"""metrics.jsonl: what can be read of it is read, and what cannot is told."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmodal.runs.metrics_file import drop_metrics_after, last_row, read_metrics

GOOD = [{"step": step, "stage": "main", "loss": 0.5} for step in range(1, 9)]
STRANGE = {
    "cut": b'{"step": 3, "lo',
    "without a step": b'{"stage": "main", "loss": 0.5}',
    "a step that is none": b'{"step": "3", "loss": 0.5}',
    "a step that is true": b'{"step": true, "loss": 0.5}',
    "binary": b"\x00\xff\xfe\x80",
    "no object": b"[3, 0.5]",
    "a list as value": b'{"step": 3, "loss": [0.5]}',
    "nested without end": b"[" * 100_000,
    "empty": b"",
}


def written(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def lines_of(rows: list[dict]) -> list[bytes]:
    return [json.dumps(row).encode() for row in rows]


@pytest.mark.parametrize("kind", STRANGE)
def test_a_strange_line_is_told_and_kept_aside(kind: str, tmp_path: Path) -> None:
    good = lines_of(GOOD)
    path = written(tmp_path / "metrics.jsonl", *good[:4], STRANGE[kind], *good[4:])
    before = path.read_bytes()
    assert read_metrics(path) == (GOOD, [5])
    (warning,) = drop_metrics_after(path, 6, 1)
    assert warning == (
        f"warning: {path}: 1 of 9 lines hold no measurement (first: line 5) and were dropped; the "
        "file as it was is kept as metrics.jsonl.damaged"
    )
    assert path.read_bytes() == written(tmp_path / "right", *good[:6]).read_bytes()
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == before
    assert drop_metrics_after(path, 6, 1) == []


@given(st.lists(st.sampled_from([*lines_of(GOOD), *STRANGE.values()]) | st.binary(), max_size=9))
def test_any_bytes_give_their_measurements_and_a_warning(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    path = written(tmp_path_factory.mktemp("run") / "metrics.jsonl", *lines)
    rows, strange = read_metrics(path)
    good = [json.loads(line) for line in lines if line in lines_of(GOOD)]
    assert [row for row in rows if row in GOOD] == good
    assert len(rows) + len(strange) == path.read_bytes().count(b"\n")
    assert bool(strange) == any("hold no measurement" in w for w in drop_metrics_after(path, 9, 9))
    assert read_metrics(path) == (rows, [])


@pytest.mark.parametrize(
    ("logged", "step", "log_every", "gap"),
    [
        (range(1, 9), 8, 1, None),
        (range(50, 151, 50), 156, 50, None),
        (range(50, 151, 50), 156, 1, None),  # training.log_every has changed since
        ([], 5, 50, None),
        ([], 156, 50, "1 to 156"),
        (range(1, 5), 8, 1, "5 to 8"),
        (range(50, 101, 50), 156, 50, "101 to 156"),
        (range(1, 20), 8, 1, None),
    ],
)
def test_a_gap_before_the_checkpoint_is_told(
    logged: range, step: int, log_every: int, gap: str | None, tmp_path: Path
) -> None:
    rows = [{"step": number} for number in logged]
    path = written(tmp_path / "metrics.jsonl", *lines_of(rows))
    told = [
        f"warning: {path} has no lines of steps {gap}; its curves have a gap there"
        for gap in filter(None, [gap])
    ]
    assert drop_metrics_after(path, step, log_every) == told


def test_steps_that_are_all_repeated_are_told(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 7, "loss": 1.0}\n')
    (line,) = drop_metrics_after(path, 0, 1)
    assert line == f"warning: no checkpoint is left of the 7 steps in {path}: training starts again"
    assert path.read_text() == ""
    assert drop_metrics_after(path, 0, 1) == []


def test_a_file_that_was_removed_is_told(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    (line,) = drop_metrics_after(path, 12, 1)
    assert "has no lines of steps 1 to 12" in line
    assert not path.exists()


def test_the_newest_measurement_of_a_file_that_is_being_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert last_row(path) is None
    path.touch()
    assert last_row(path) is None
    long = [row | {"note": "x" * 10_000} for row in GOOD]
    written(path, *lines_of(long), STRANGE["binary"])
    with path.open("ab") as file:
        file.write(b'{"step": 9')
    assert last_row(path) == long[-1]
