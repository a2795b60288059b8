"""A component's file gives its configuration first, and all else once it is needed."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documented import ROOT, Text
from xmodal.components.declared import DeclaredModule, declare

SOURCE = '''
"""A component in one file."""

from typing import Literal

from pydantic import Field

from xmodal.components.config import Config

LONGEST = 7
import slow_library
from lazy_library import Fast, Slow  # of which a configuration needs one name


class Built(slow_library.Base):
    pass


def made_of(built: Built = Built()) -> Built:
    return built


class WordConfig(Config, Fast):
    kind: Literal["word"] = "word"
    made_of: str = "letters"  # a field that is called as a function
    length: int = Field(LONGEST, description="letters")


made = Built()
also_made = Slow()
'''

LAZY = """
class Fast:
    pass


def __getattr__(name):
    if name != "Slow":
        raise AttributeError(name)
    import slow_library

    return slow_library.Base
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    folder = tmp_path / "declared_package"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "word.py").write_text(SOURCE)
    (folder / "plain.py").write_text("raise AssertionError('it declares nothing')")
    (tmp_path / "slow_library.py").write_text("class Base:\n    pass\n")
    (tmp_path / "lazy_library.py").write_text(LAZY)
    monkeypatch.syspath_prepend(tmp_path)
    yield folder.name
    for name in [n for n in sys.modules if n.startswith((folder.name, "slow", "lazy"))]:
        del sys.modules[name]


def test_configuration_comes_without_what_it_builds(package: str) -> None:
    declare(package)
    module = sys.modules[f"{package}.word"]
    assert isinstance(module, DeclaredModule)
    assert module.WordConfig().length == 7
    assert "slow_library" not in sys.modules


def test_the_rest_comes_with_the_first_name_of_it(package: str) -> None:
    declare(package)
    module = sys.modules[f"{package}.word"]
    config = module.WordConfig
    from declared_package.word import Built, WordConfig  # type: ignore[import-not-found]

    assert isinstance(module.made, Built)
    assert WordConfig is config
    assert type(module) is not DeclaredModule
    with pytest.raises(AttributeError):
        _ = module.nothing


def test_an_error_of_the_rest_is_raised_where_it_is_needed(package: str, tmp_path: Path) -> None:
    (tmp_path / "slow_library.py").write_text("raise RuntimeError('broken')")
    declare(package)
    with pytest.raises(RuntimeError, match="broken"):
        _ = sys.modules[f"{package}.word"].Built
    assert f"{package}.word" not in sys.modules


def test_the_objective_of_the_tutorial_needs_no_torch_inside_a_package(tmp_path: Path) -> None:
    tutorial = Text("", (ROOT / "docs/tutorials/own_loss.md").read_text())
    (name, source), *_ = [code for code in tutorial.code("python") if code[0]]
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside/__init__.py").touch()
    (tmp_path / "inside" / name).write_text(source)
    code = (
        "import sys; from xmodal.components.declared import declare; "
        "from xmodal.objectives import ObjectiveConfig; declare('inside'); "
        "print('margin_info_nce' in ObjectiveConfig.kinds, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "False"]
