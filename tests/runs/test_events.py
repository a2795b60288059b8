"""TensorBoard reads what a resumed run left without a warning, and each step once."""

import logging
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from torch.utils.tensorboard import SummaryWriter

from xmodal.runs.events import FILES, drop_events_after


def write(folder: Path, steps: range, **options: int) -> Path:
    """Write a loss and a picture of each step as a run does, and return the file."""
    before = set(folder.glob(FILES))
    with SummaryWriter(str(folder), **options) as board:
        for step in steps:
            board.add_scalar("loss", step / 10, step)
            board.add_image("retrieved", np.zeros((3, 8, 8), np.uint8), step)
    (new,) = set(folder.glob(FILES)) - before
    return new


def shown(folder: Path, caplog: pytest.LogCaptureFixture) -> list[int]:
    """Return the steps that TensorBoard shows; fails where it warns."""
    with caplog.at_level(logging.WARNING):
        board = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()
    assert caplog.records == []
    steps = [event.step for event in board.Scalars("loss")]
    assert [event.step for event in board.Images("retrieved")] == steps
    return steps


def test_a_resumed_run_shows_each_step_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part, (begin, end) in enumerate([(1, 10), (4, 12), (12, 20)]):
        monkeypatch.setattr("time.time", lambda part=part: 1e9 + part)  # the files' order
        drop_events_after(tmp_path, begin - 1)
        write(tmp_path, range(begin, end))
    assert shown(tmp_path, caplog) == list(range(1, 20))


def test_marks_that_runs_of_before_left_are_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, range(1, 6))
    monkeypatch.setattr("time.time", lambda: 4e9)
    write(tmp_path, range(4, 9), purge_step=4)
    drop_events_after(tmp_path, 8)
    with caplog.at_level(logging.WARNING):
        EventAccumulator(str(tmp_path)).Reload()
    assert caplog.records == []


def test_the_beginning_of_a_record_that_a_kill_left_is_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(tmp_path, range(1, 6))
    whole = file.read_bytes()
    for cut in (1, 5, 20):
        file.write_bytes(whole + whole[:cut])
        drop_events_after(tmp_path, 5)
        assert file.read_bytes() == whole
    assert shown(tmp_path, caplog) == [1, 2, 3, 4, 5]


def test_what_needs_no_change_is_not_written_again(tmp_path: Path) -> None:
    file = write(tmp_path, range(1, 6))
    before = file.stat()
    drop_events_after(tmp_path, 5)
    assert file.stat() == before


def test_a_file_with_nothing_left_goes_and_a_strange_one_stays(tmp_path: Path) -> None:
    gone = write(tmp_path, range(3, 6))
    strange = tmp_path / "events.out.tfevents.9.host.1.0"
    strange.write_bytes(b"\xff" * 100)
    other = tmp_path / "notes.txt"
    other.write_text("mine")
    EventFileWriter(str(tmp_path)).close()  # of a run that was killed before its first step
    drop_events_after(tmp_path, 2)
    assert not gone.exists()
    assert sorted(tmp_path.iterdir()) == [strange, other]
    assert strange.read_bytes() == b"\xff" * 100
