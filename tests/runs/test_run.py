"""The run folder: nothing in it is lost, and nothing foreign is written over."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from xmodal.assembly.recipe import Recipe, load_recipe
from xmodal.errors import UserError
from xmodal.runs.metrics_file import drop_metrics_after
from xmodal.runs.run import STATE_FILE, Run, read_state

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def run(tmp_path: Path, make_recipe: MakeRecipe) -> Run:
    """A run folder just made."""
    run = Run(tmp_path / "deep" / "run")
    run.create(make_recipe())
    return run


def save(run: Run, *steps: int, best: int | None = None) -> None:
    """Leave what saving checkpoints leaves; the last is `latest`."""
    for step in steps:
        run.checkpoint(step).mkdir()
        state = {"step": step, "best_step": best}
        (run.checkpoint(step) / STATE_FILE).write_text(json.dumps(state))
        (run.checkpoints / "latest").write_text(f"step-{step}")


def kept(run: Run) -> set[str]:
    return {path.name for path in run.checkpoints.iterdir() if path.is_dir()}


def test_a_new_folder_or_an_empty_one_is_anyones(tmp_path: Path, make_recipe: MakeRecipe) -> None:
    Run(tmp_path / "new").check(make_recipe())
    (tmp_path / "empty").mkdir()
    Run(tmp_path / "empty").check(make_recipe())


def test_a_run_that_has_lost_its_checkpoints_does_not_begin_again(
    run: Run, make_recipe: MakeRecipe
) -> None:
    run.checkpoints.rmdir()
    with pytest.raises(UserError, match="has lost its folder checkpoints; restore it, or name an"):
        run.check(make_recipe())


def test_of_a_long_list_of_changes_the_first_are_named(run: Run, make_recipe: MakeRecipe) -> None:
    run.log({"step": 1})
    longer = make_recipe(stages=[{"length": "1 epoch", "name": f"s{n}"} for n in range(9)])
    with pytest.raises(UserError, match=r"; \d+ more\); name another run") as caught:
        run.check(longer)
    assert str(caught.value).count("→") == 8


def test_the_folder_holds_the_resolved_recipe(run: Run, make_recipe: MakeRecipe) -> None:
    assert load_recipe(run.path) == make_recipe()
    run.check(make_recipe())


def test_foreign_folders_and_files_are_refused(tmp_path: Path, make_recipe: MakeRecipe) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match=r"is no run folder: it has no recipe\.yaml; name"):
        Run(tmp_path).check(make_recipe())
    with pytest.raises(UserError, match="is a file; name a folder"):
        Run(tmp_path / "thesis.tex").check(make_recipe())
    assert (tmp_path / "thesis.tex").read_text() == "x"


def test_another_recipe_is_refused_with_what_differs(run: Run, make_recipe: MakeRecipe) -> None:
    run.log({"step": 1})
    with pytest.raises(UserError) as caught:
        run.check(make_recipe(data={"batch_size": 20, "workers": 0}, training={"seed": 1}))
    line = str(caught.value)
    assert "data.batch_size: 10 → 20; training.seed: 0 → 1" in line
    assert "data.workers" not in line


def test_a_start_that_failed_binds_no_recipe(run: Run, make_recipe: MakeRecipe) -> None:
    other = make_recipe(data={"batch_size": 20})
    run.check(other)
    run.create(other)
    assert load_recipe(run.path) == other
    save(run, 1)
    with pytest.raises(UserError, match="another recipe"):
        run.check(make_recipe())


@pytest.mark.parametrize(
    "parts",
    [
        {"run": "elsewhere"},
        {"data": {"workers": 0}},
        {"data": {"max_bad_share": 0.5}},  # what the error of too many bad samples proposes
        {"training": {"log_every": 1}},
        {"checkpoints": {"every": "1 steps", "keep_last": 5}},
        {"evaluation": {"every": "1 steps", "tile": 16}},
    ],
)
def test_what_no_weight_depends_on_may_change(
    run: Run, make_recipe: MakeRecipe, parts: dict
) -> None:
    run.check(make_recipe(**parts))


@pytest.mark.parametrize(
    "parts",
    [
        {"data": {"lanes": 5}},
        {"data": {"window": 3}},
        {"stages": [{"length": "1 steps"}]},
        {"training": {"zero": 1}},
        {"checkpoints": {"best": "rsum"}},
    ],
)
def test_what_weights_depend_on_may_not(run: Run, make_recipe: MakeRecipe, parts: dict) -> None:
    run.log({"step": 1})
    with pytest.raises(UserError, match="another recipe"):
        run.check(make_recipe(**parts))


def test_metrics_after_the_checkpoint_are_dropped(run: Run) -> None:
    for step in (1, 2, 2, 3, 4):
        run.log({"step": step, "loss": 0.1 * step, "name": "ü"})
    before = run.metrics.read_text().splitlines(keepends=True)
    assert drop_metrics_after(run.metrics, 2, 1) == []
    assert run.metrics.read_text() == "".join(before[:3])
    assert [line["step"] for line in run.history()] == [1, 2, 2]
    (warning,) = drop_metrics_after(run.metrics, 0, 1)
    assert "no checkpoint is left of the 2 steps in" in warning
    assert run.history() == []


def test_a_line_that_a_killed_run_left_half_written_is_no_line(run: Run) -> None:
    run.log({"step": 1})
    with run.metrics.open("a") as file:
        file.write('{"step": 2, "lo')
    assert run.history() == [{"step": 1}]
    assert drop_metrics_after(run.metrics, 1, 1) == []
    run.log({"step": 2})
    assert run.history() == [{"step": 1}, {"step": 2}]


def test_without_metrics_there_is_no_history(run: Run) -> None:
    drop_metrics_after(run.metrics, 3, 1)
    assert run.history() == []
    assert not run.metrics.exists()


PARTS = {
    "recipe.yaml": False,
    "lock": False,
    "tokenizer.json": False,
    "metrics.jsonl": False,
    "results.json": False,
    "checkpoints/latest": False,
    "tensorboard": True,
    "checkpoints": True,
    "report": True,
}


@pytest.mark.parametrize("kind", ["file", "folder", "link to nothing", "pipe"])
@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_another_kind_is_one_line(
    name: str, kind: str, run: Run, make_recipe: MakeRecipe
) -> None:
    path = run.path / name
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    match kind:
        case "file":
            path.touch()
        case "folder":
            path.mkdir()
        case "link to nothing":
            path.symlink_to("nothing")
        case "pipe":
            os.mkfifo(path)
    if kind == ("folder" if PARTS[name] else "file"):
        if name != "recipe.yaml":
            run.check(make_recipe())
        return
    right = "folder" if PARTS[name] else "file"
    with pytest.raises(UserError, match=f"{name} is not a {right}, as it is in a run folder; move"):
        run.check(make_recipe())


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", r"recipe\.yaml holds no keys"),
        (b"\xff\xfe\x00", r"recipe\.yaml is not YAML"),
        (b"- a\n", r"recipe\.yaml holds no keys"),
        (b"a: [\n", r"recipe\.yaml is not YAML"),
        (b"apiVersion: v1\nkind: Pod\n", r"recipe\.yaml: (data|run) is missing"),
    ],
)
def test_a_recipe_that_is_none_is_one_line(
    content: bytes, line: str, run: Run, make_recipe: MakeRecipe
) -> None:
    (run.path / "recipe.yaml").write_bytes(content)
    with pytest.raises(UserError, match=line):
        run.check(make_recipe())


def test_a_path_below_a_file_or_a_link_to_nothing_is_one_line(
    tmp_path: Path, make_recipe: MakeRecipe
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nothing")
    for place in ("file/run", "file/a/b"):
        with pytest.raises(UserError, match=r"lies below .*/file, a file; name a folder"):
            Run(tmp_path / place).check(make_recipe())
    with pytest.raises(UserError, match="link is a link to nothing; name a folder"):
        Run(tmp_path / "link").check(make_recipe())


@pytest.mark.parametrize("name", ["[x]", "a*", "b?/c"])
def test_a_path_that_deepspeed_takes_for_a_pattern_is_one_line(
    name: str, tmp_path: Path, make_recipe: MakeRecipe
) -> None:
    with pytest.raises(UserError, match=r"DeepSpeed finds no checkpoints below a path with \*, \?"):
        Run(tmp_path / name).check(make_recipe())


@pytest.mark.parametrize("what", ["renamed", "removed", "replaced"])
def test_a_folder_that_is_moved_away_is_written_into_no_more(
    what: str, run: Run, make_recipe: MakeRecipe
) -> None:
    run.pin()
    run.log({"step": 1})
    if what == "removed":
        shutil.rmtree(run.path)
    else:
        run.path.rename(run.path.with_name("elsewhere"))
    if what == "replaced":
        Run(run.path).create(make_recipe())
    for write in (lambda: run.log({"step": 2}), run.check_place):
        with pytest.raises(UserError, match="was renamed or removed during training; move it back"):
            write()
    assert not run.metrics.exists()


def test_a_full_disk_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path("/dev/full").open("a")  # noqa: SIM115 - `log` closes it
    monkeypatch.setattr("xmodal.runs.run.open_itself", lambda *_: full)
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be written: No space left on devi"):
        run.log({"step": 1})


def test_a_full_disk_is_named_whatever_is_written_whole(
    run: Run, make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("xmodal.atomic_files.open_itself", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        run.create(make_recipe())
    assert caught.value.filename == str(run.path / "recipe.yaml")


def test_a_start_tidies_what_a_killed_one_left(run: Run) -> None:
    save(run, 3, 5, 8, best=3)
    left = ["checkpoints/step-9.partial", "checkpoints/taken.partial"]
    for name in left:
        (run.path / name).mkdir()
    left += ["recipe.yaml.part", "metrics.jsonl.part", "checkpoints/latest.part"]
    left += ["tokenizer.json.part"]
    for name in left[2:]:
        (run.path / name).touch()
    mine = run.path / "notes.part"
    mine.touch()
    (run.checkpoints / "step-1").touch()  # no checkpoint, nor a folder
    (run.checkpoints / "notes.partial").touch()
    run.tidy(1, 3)
    assert [name for name in left if (run.path / name).exists()] == []
    assert kept(run) == {"step-3", "step-8"}
    assert mine.exists()


@pytest.mark.parametrize(
    ("keep_last", "best", "left"),
    [
        (1, None, {100}),
        (2, None, {20, 100}),
        (2, 5, {5, 20, 100}),
        (2, 20, {20, 100}),
        (9, 5, {3, 5, 20, 100}),
    ],
)
def test_pruning_keeps_the_newest_and_the_best(
    run: Run, keep_last: int, best: int | None, left: set[int]
) -> None:
    save(run, 3, 5, 20, 100)
    (run.checkpoints / "step-50.partial").mkdir()
    run.prune(keep_last, best)
    assert kept(run) == {f"step-{step}" for step in left}


def test_pruning_never_deletes_the_latest(run: Run) -> None:
    save(run, 4, 8)
    # Killed after step 8 was renamed and before `latest` named it, then gone on in other steps.
    (run.checkpoints / "latest").write_text("step-4")
    save(run, 6)
    run.prune(1, None)
    assert run.latest() == run.checkpoint(6)
    assert "step-6" in kept(run)
    assert "step-4" not in kept(run)


def test_checkpoints_are_found_by_name(run: Run) -> None:
    assert run.latest() is None
    with pytest.raises(UserError, match="has no checkpoint yet"):
        run.find_checkpoint("latest")
    save(run, 5, 20, 100, best=20)
    (run.checkpoints / "step-120.partial").mkdir()
    assert run.latest() == run.find_checkpoint("latest") == run.checkpoint(100)
    assert run.find_checkpoint("best") == run.checkpoint(20)
    assert run.find_checkpoint("step-5") == run.checkpoint(5)
    (run.checkpoints / "latest").unlink()
    assert run.find_checkpoint("latest") == run.checkpoint(100)
    (run.checkpoints / "latest").write_text("step-99")
    with pytest.raises(UserError, match="keeps no checkpoint step-99; there are: step-5, step-20"):
        run.find_checkpoint("latest")
    (run.checkpoints / "latest").write_text("step-100")
    with pytest.raises(
        UserError, match=r"no checkpoint step-7; there are: step-5, step-20, step-100$"
    ):
        run.find_checkpoint("step-7")


def test_without_an_evaluation_the_best_is_the_latest(run: Run) -> None:
    save(run, 5, 20)
    assert run.find_checkpoint("best") == run.checkpoint(20)


def test_a_checkpoint_without_its_state_is_not_whole(run: Run) -> None:
    save(run, 5)
    (run.checkpoint(5) / STATE_FILE).unlink()
    with pytest.raises(UserError, match=r"step-5 is not whole: state\.json is missing"):
        read_state(run.checkpoint(5))
