"""How Ray is started: nothing of the folder where the command was given is imported."""

from pathlib import Path

import pytest
import ray

from tests.commands import ROOT
from xmodal.tuning.cluster import running_ray


def test_ray_does_not_import_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = list[Path]()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    monkeypatch.setattr(ray, "init", lambda **_: places.append(Path.cwd()))
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True}])
    with running_ray():
        assert Path.cwd() == tmp_path
    assert places == [ROOT]
