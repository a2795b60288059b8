"""A component's file gives its configuration first, and all else once it is needed."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from xmodal.components.declared import DeclaredModule, declare

SOURCE = '''
"""A component in one file."""

from typing import Literal

from pydantic import Field

from xmodal.components.config import Config

LONGEST = 7
import slow_library


class Built(slow_library.Base):
    pass


def made_of(built: Built = Built()) -> Built:
    return built


class WordConfig(Config):
    kind: Literal["word"] = "word"
    made_of: str = "letters"  # a field that is called as a function
    length: int = Field(LONGEST, description="letters")


made = Built()
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    folder = tmp_path / "declared_package"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "word.py").write_text(SOURCE)
    (folder / "plain.py").write_text("raise AssertionError('it declares nothing')")
    (tmp_path / "slow_library.py").write_text("class Base:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder.name
    for name in [n for n in sys.modules if n.startswith((folder.name, "slow_library"))]:
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
