"""A sweep's folder is its user's alone: Ray keeps pickles in it, and reads them back."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from xmodal.assembly.recipe import Recipe, read_recipe
from xmodal.errors import UserError
from xmodal.tuning.config import ResourcesConfig, SpaceConfig
from xmodal.tuning.folder import check_folder, make_folder
from xmodal.tuning.space import read_space
from xmodal.tuning.sweep import _make_private
from xmodal.tuning.trial import Plan

Given = tuple[Recipe, SpaceConfig]


@pytest.fixture
def given(recipe: Path, space: Callable[..., Path]) -> Given:
    read = read_recipe(str(recipe), [], recipe.parent)
    return read, read_space(space(), read)


def test_nobody_else_writes_into_a_folder_whatever_the_umask(given: Given, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    before = os.umask(0)
    try:
        folder.mkdir()
        check_folder(folder, *given)
        make_folder(folder, *given)
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o755
    check_folder(folder, *given)
    folder.chmod(0o775)
    with pytest.raises(UserError, match=rf"can be written by others, .*: chmod go-w {folder}$"):
        check_folder(folder, *given)


def test_trials_and_resources_may_change_between_the_parts_of_a_sweep(
    given: Given, tmp_path: Path
) -> None:
    (recipe, space), folder = given, tmp_path / "sweep"
    make_folder(folder, recipe, space)
    more = space.model_copy(update={"trials": 9, "resources": ResourcesConfig(cpus=2)})
    check_folder(folder, recipe, more)
    with pytest.raises(UserError, match=r"begun with another recipe or space \(workers: 1 → 2\)"):
        check_folder(folder, recipe, more.model_copy(update={"workers": 2}))


def test_a_folder_of_another_user_is_refused(
    given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    with pytest.raises(UserError, match="belongs to another user"):
        check_folder(tmp_path, *given)


def test_a_link_in_the_place_of_ray_s_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "ray").symlink_to(tmp_path / "other")
    with pytest.raises(UserError, match="ray cannot be removed"):
        _make_private(tmp_path / "ray")


def test_a_journal_gives_no_value_beyond_the_space(given: Given, tmp_path: Path) -> None:
    plan = Plan(*given, "relevance/rsum", tmp_path, tmp_path)
    with pytest.raises(
        UserError, match=r"trial 001 has a value of checkpoints\.mirror, a key that"
    ):
        plan.recipe_of("001", {"checkpoints.mirror": "s3://stranger/x"})
