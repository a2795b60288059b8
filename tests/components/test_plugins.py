"""Plugins: who may have them imported, and what is said of those that are not there."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import yaml

from xmodal.assembly.plugin_record import changed_plugins, write_plugins
from xmodal.assembly.recipe import Recipe, load_recipe, read_recipe
from xmodal.commands import evaluate, train
from xmodal.components import plugins
from xmodal.errors import UserError
from xmodal.evaluation.protocols.config import ProtocolConfig
from xmodal.training.optimizers.config import OptimizerConfig

ROOT = Path(__file__).parents[2]
PLUGIN = """
from typing import Literal

from xmodal.training.optimizers.config import OptimizerConfig


class PlainConfig(OptimizerConfig):
    \"\"\"Plain descent.\"\"\"

    kind: Literal["plain"] = "plain"
    builds = "torch.optim:SGD"
    momentum: float = 0.0
"""
PROTOCOL = """
from typing import Literal

from xmodal.evaluation.protocols.config import ProtocolConfig


class ByColourConfig(ProtocolConfig):
    \"\"\"Retrieval of colours.\"\"\"

    kind: Literal["by-colour"] = "by-colour"
"""
CHOSEN = ["stages.0.optimizer={kind: plain}", "stages.0.optimizer.momentum=0.5"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with a plugin in it; what is imported there is forgotten again."""
    (tmp_path / "descent_plugin.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(plugins, "_imported", {})
    yield tmp_path
    sys.modules.pop("descent_plugin", None)
    OptimizerConfig.kinds.pop("plain", None)


def write_run(place: Path, recipe: Recipe) -> Path:
    run = place / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    return run


def forget() -> None:
    """Be a process that has imported nothing yet."""
    plugins._imported.clear()
    sys.modules.pop("descent_plugin", None)
    OptimizerConfig.kinds.pop("plain", None)


@pytest.mark.parametrize("named", ["descent_plugin", "[descent_plugin]"])
def test_a_recipe_names_a_module_of_the_working_directory(named: str, place: Path) -> None:
    # In any order: the plugin is imported before keys of its components are read.
    recipe = read_recipe("quickstart", [*CHOSEN, f"plugins={named}"])
    assert recipe.stages[0].optimizer.kind == "plain"
    assert recipe.plugins == ["descent_plugin"]
    assert place.samefile(Path(str(sys.modules["descent_plugin"].__file__)).parent)


def test_a_run_folder_alone_imports_nothing(place: Path) -> None:
    run = write_run(place, read_recipe("quickstart", ["plugins=descent_plugin", *CHOSEN]))
    assert load_recipe(run).stages[0].optimizer.kind == "plain"
    forget()
    with pytest.raises(UserError, match="needs the plugin descent_plugin") as caught:
        load_recipe(run)
    assert str(caught.value).startswith(f"{run}/recipe.yaml needs")
    assert "descent_plugin" not in sys.modules
    plugins.import_plugins(["descent_plugin"])
    assert load_recipe(run).stages[0].optimizer.kind == "plain"


def test_plugins_of_installed_packages_are_found_by_kind(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = EntryPoint("descent", "descent_plugin", plugins.GROUP)
    monkeypatch.setattr(plugins, "_announced", lambda: {"descent": entry})
    read_recipe("quickstart", [])
    assert "descent_plugin" not in sys.modules  # no kind of it was asked for
    run = write_run(place, read_recipe("quickstart", CHOSEN))
    assert sys.modules["descent_plugin"]
    forget()
    assert load_recipe(run).stages[0].optimizer.kind == "plain"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_plugin", "plugins: there is no module no_such_plugin; install it, start"),
        ("lacking", "plugins: lacking needs the module no_such_library, which is not installed"),
        ("./a.py", "plugins: './a.py' is not the name of a module"),
        ("broken", r"broken cannot be imported: SyntaxError: .*broken.py, line 2\)"),
        ("raising", r"raising cannot be imported: ValueError: no \(.*raising.py, line 3\)"),
        ("twice", "two components are optimiser adam: .*AdamConfig and twice.TwiceConfig; rename"),
    ],
)
def test_a_plugin_that_is_not_there_is_one_line(name: str, said: str, place: Path) -> None:
    (place / "lacking.py").write_text("import no_such_library\n")
    (place / "broken.py").write_text("x = 1\ndef f(:\n")
    (place / "raising.py").write_text("\ndef f():\n    raise ValueError('no')\nf()\n")
    (place / "twice.py").write_text(PLUGIN.replace("Plain", "Twice").replace('"plain"', '"adam"'))
    with pytest.raises(UserError, match=said):
        read_recipe("quickstart", [f"plugins={name}"])


def test_a_run_notices_another_source(place: Path) -> None:
    read_recipe("quickstart", ["plugins=descent_plugin"])
    write_plugins(place)
    assert changed_plugins(place) == []
    (place / "descent_plugin.py").write_text(PLUGIN + "\n# changed\n")
    (line,) = changed_plugins(place)
    assert line.startswith("warning: the source of plugin descent_plugin changed")


@pytest.mark.parametrize(
    "words",
    [["plain.yaml"], ["quickstart", "plugins=[descent_plugin]"]],
)
def test_help_lists_the_keys_of_a_recipe_s_plugins(
    words: list[str], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "plain.yaml").write_text("plugins: descent_plugin\n")
    with pytest.raises(SystemExit):
        train.read_arguments([*words, "--help"])
    assert "stages.0.optimizer (Plain)\n      Plain descent." in capsys.readouterr().out


def test_help_lists_the_protocols_of_plugins(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "descent_plugin.py").write_text(PROTOCOL)
    with pytest.raises(SystemExit):
        evaluate.read_arguments(["RUN", "--plugin", "descent_plugin", "--help"])
    ProtocolConfig.kinds.pop("by-colour")
    assert "by-colour" in "".join(capsys.readouterr().out.split())  # lines break at hyphens


def install(place: Path, version: str) -> None:
    """Have the plugin belong to an installed package of a version."""
    for old in place.glob("*.dist-info"):
        shutil.rmtree(old)
    described = place / f"descent-{version}.dist-info"
    described.mkdir()
    described.joinpath("METADATA").write_text(f"Name: descent\nVersion: {version}\n")
    described.joinpath("top_level.txt").write_text("descent_plugin\n")


def test_a_run_notices_another_version(place: Path) -> None:
    install(place, "1.0")
    read_recipe("quickstart", ["plugins=descent_plugin"])
    write_plugins(place)
    assert changed_plugins(place) == []
    install(place, "1.1")
    (place / "descent_plugin.py").write_text(PLUGIN + "\n# changed\n")
    assert changed_plugins(place) == [
        "warning: the run was trained with version 1.0 of plugin descent_plugin, and 1.1 is "
        "installed"
    ]


def test_a_record_without_versions_is_compared_by_its_digests(place: Path) -> None:
    read_recipe("quickstart", ["plugins=descent_plugin"])
    write_plugins(place)
    record = place / "plugins.json"
    digest = json.loads(record.read_text())["descent_plugin"]["digest"]
    record.write_text(json.dumps({"descent_plugin": digest, "damaged": 1}))
    install(place, "1.0")
    assert changed_plugins(place) == []
    record.write_text(json.dumps({"descent_plugin": "sha256-0"}))
    (line,) = changed_plugins(place)
    assert line.startswith("warning: the source of plugin descent_plugin changed")


Make = Callable[..., Recipe]


def test_what_a_run_has_imported_already_is_no_harm(place: Path, make_recipe: Make) -> None:
    assert make_recipe(plugins=["os"]).plugins == ["os"]
    assert list(place.iterdir()) == [place / "descent_plugin.py"]


def test_a_pickled_recipe_finds_its_plugin_in_another_process(place: Path) -> None:
    recipe = read_recipe("quickstart", ["plugins=descent_plugin", *CHOSEN])
    pickled = pickle.dumps(recipe)
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer).stages[0].optimizer)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd="/",
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        input=pickled,
        capture_output=True,
    )
    assert b"kind='plain'" in done.stdout, done.stderr


def test_a_plugin_that_registers_nothing_is_reported(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "idle_plugin.py").write_text("from xmodal.objectives import ObjectiveConfig\n")
    plugins.import_plugins(["descent_plugin", "idle_plugin"])
    assert capsys.readouterr().err.splitlines() == [
        "warning: plugin idle_plugin registers no component (docs/plugins.md)"
    ]
    sys.modules.pop("idle_plugin")


def test_a_path_in_the_place_of_a_module_is_answered_with_its_name() -> None:
    with pytest.raises(UserError, match=r"write patches, and start the command in /some/folder or"):
        plugins.import_plugins(["/some/folder/patches.py"])
