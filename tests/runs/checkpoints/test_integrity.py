"""Checkpoints that are damaged: the one before takes their place, and a run never begins anew."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmodal.assembly.recipe import Recipe
from xmodal.errors import UserError
from xmodal.runs.checkpoints.integrity import (
    CONTENTS,
    check_whole_checkpoint,
    read_contents,
    recover,
    write_contents,
)
from xmodal.runs.run import Run

FILE = "deep/weights.pt"
SIZE = 10_000


@pytest.fixture
def run(tmp_path: Path, make_recipe: Callable[..., Recipe]) -> Run:
    """A run with three checkpoints."""
    run = Run(tmp_path / "run")
    run.create(make_recipe())
    for step in (3, 20, 100):
        folder = run.checkpoint(step)
        (folder / "deep").mkdir(parents=True)
        (folder / FILE).write_bytes(bytes(step + number % 100 for number in range(SIZE)))
        size = (folder / "state.json").write_text(json.dumps({"step": step, "best_step": None}))
        assert write_contents(folder, []) == SIZE + size
    (run.checkpoints / "latest").write_text("step-100")
    return run


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def noise(file: Path) -> None:
    """One bit is another one."""
    data = bytearray(file.read_bytes())
    data[SIZE // 2] ^= 1
    file.write_bytes(data)


def put_state(state: str, file: Path) -> None:
    """Write another state, and have files.json list it."""
    file.write_text(state)
    (file.parent / CONTENTS).unlink()
    write_contents(file.parent, [])


DAMAGE: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "cut": (FILE, truncate, "weights.pt has 9,999 bytes of 10,000"),
    "noise": (FILE, noise, "weights.pt is not what was written"),
    "deleted": (FILE, Path.unlink, "weights.pt is missing"),
    "state deleted": ("state.json", Path.unlink, "state.json is missing"),
    "contents deleted": (CONTENTS, Path.unlink, "files.json is missing"),
    "contents cut": (CONTENTS, truncate, "files.json cannot be read"),
    "contents of another kind": (CONTENTS, lambda f: f.write_text("[1]"), "cannot be read"),
    "contents of nothing": (CONTENTS, lambda f: f.write_text("{}"), "files.json cannot be read"),
    **{
        f"state {state}": ("state.json", partial(put_state, state), said)
        for state, said in {
            "{}": "state.json cannot be read",
            "[]": "state.json cannot be read",
            '{"step": 20}': "state.json is one of step 20",
            '{"step": "100"}': "state.json cannot be read",
            '{"step": 1e2}': "state.json cannot be read",
            '{"step": 100, "ranks": -1}': "state.json cannot be read",
            '{"step": 100, "best_step": "1/../../x"}': "state.json cannot be read",
        }.items()
    },
}


NAMES = {
    *("/etc/passwd", "../x", "deep/../../x", "..", ".", "", "/", "deep/", "deep//x", "./x", ".x"),
    *("..\\x", "C:x", "C:\\x", "\\\\server\\x", "~/x", "x\n", "x\0", "x\x1b[2J", "deep", "x" * 300),
}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_name_that_leaves_the_folder_is_no_list(name: str) -> None:
    file = {"bytes": 1, "blake2b": "0"}
    whole = {"state.json": file, FILE: file}
    assert read_contents(json.dumps(whole)).keys() == whole.keys()
    with pytest.raises(ValueError, match="blake2b"):
        read_contents(json.dumps(whole | {name: file}))


@given(st.text() | st.lists(st.sampled_from(["..", ".", "a", "/", "\\", ""])).map("/".join))
def test_what_is_listed_lies_below_the_folder(name: str) -> None:
    file = {"bytes": 1, "blake2b": "0"}
    folder = Path("/run/checkpoints/step-1.partial")
    with suppress(ValueError):
        for listed in read_contents(json.dumps({"state.json": file, name: file})):
            path = Path(os.path.normpath(folder / listed))
            assert path != folder
            assert path.is_relative_to(folder)
            assert path == folder / listed


def test_what_is_whole_stays(run: Run) -> None:
    assert recover(run) == []
    assert run.latest() == run.checkpoint(100)
    for step in (3, 20, 100):
        check_whole_checkpoint(run.checkpoint(step))


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_one_before_takes_the_place_of_a_broken_one(damage: str, run: Run) -> None:
    name, change, said = DAMAGE[damage]
    change(run.checkpoint(100) / name)
    if damage == "contents cut":  # a brace less
        change(run.checkpoint(100) / name)
    with pytest.raises(UserError, match=said):
        check_whole_checkpoint(run.checkpoint(100))
    (warning,) = recover(run)
    assert said in warning
    assert warning.endswith("resuming from step-20")
    assert run.latest() == run.checkpoint(20)
    # Nothing is deleted, and a run that comes to the step again writes over nothing.
    assert not run.checkpoint(100).exists()
    assert (run.checkpoints / "step-100.broken").is_dir()
    assert recover(run) == []


def test_broken_ones_never_take_each_others_place(run: Run) -> None:
    (run.checkpoints / "step-100.broken").mkdir()
    truncate(run.checkpoint(100) / FILE)
    truncate(run.checkpoint(20) / FILE)
    assert len(recover(run)) == 2
    assert run.latest() == run.checkpoint(3)
    kept = {path.name for path in run.checkpoints.glob("*.broken*")}
    assert kept == {"step-100.broken", "step-100.broken1", "step-20.broken"}


def test_what_latest_says_is_heeded_as_far_as_it_says_something(run: Run) -> None:
    latest = run.checkpoints / "latest"
    latest.write_text("step-20")  # killed before it named step-100
    assert recover(run) == []
    assert run.latest() == run.checkpoint(20)
    for nothing in ("", "../../etc", "\x00\xff"):
        latest.write_text(nothing)
        assert recover(run) == []
        assert run.latest() == run.checkpoint(100)
    latest.unlink()
    assert recover(run) == []
    assert run.latest() == run.checkpoint(100)


def test_a_missing_one_is_told(run: Run) -> None:
    run.checkpoint(100).rename(run.path / "moved")
    (warning,) = recover(run)
    assert warning.endswith("step-100 is broken (it is missing): resuming from step-20")


def test_without_a_whole_one_a_run_does_not_begin_again(run: Run) -> None:
    for step in (3, 20, 100):
        truncate(run.checkpoint(step) / FILE)
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole \(step-100: .*step-3: "):
        recover(run)
    assert len(list(run.checkpoints.glob("step-*"))) == 3
    for folder in run.checkpoints.glob("step-*"):
        folder.rename(run.path / folder.name)
    with pytest.raises(UserError, match="step-100: it is missing"):
        recover(run)


@pytest.mark.parametrize("named", [True, False])
def test_where_none_is_whole_another_place_is_asked(run: Run, named: bool) -> None:
    if not named:
        (run.checkpoints / "latest").unlink()
    for step in (3, 20, 100):
        truncate(run.checkpoint(step) / FILE)
    # That has none either: now and later the run does not begin again.
    for fetch in (list, list, None):
        with pytest.raises(UserError, match=r"no checkpoint in .* is whole \(step-100: "):
            recover(run, fetch)
    assert len(list(run.checkpoints.glob("step-*.broken"))) == 3

    def fetched() -> list[str]:
        run.checkpoint(7).mkdir()
        (run.checkpoints / "latest").write_text("step-7")
        return ["step-7 comes from elsewhere"]

    assert recover(run, fetched)[1:] == ["step-7 comes from elsewhere"]


def test_contents_are_of_the_whole_folder(run: Run) -> None:
    listed = json.loads((run.checkpoint(3) / CONTENTS).read_text())
    assert set(listed) == {FILE, "state.json"}
    assert listed[FILE]["bytes"] == SIZE


def test_a_run_without_checkpoints_begins(
    tmp_path: Path, make_recipe: Callable[..., Recipe]
) -> None:
    run = Run(tmp_path / "new")
    assert recover(run) == []
    run.create(make_recipe())
    assert recover(run) == []
