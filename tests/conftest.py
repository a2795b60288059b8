"""What tests share: the services that are started once a session, and who may skip."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import settings

from tests.formats.reference_libraries import References, missing_references
from tests.services import browser as browser_service
from tests.services import s3 as s3_service
from tests.services import slurm as slurm_service
from tests.services.browser import Browser
from xmodal.assembly.recipe import Recipe

# Their assertions are told as those of tests are.
pytest.register_assert_rewrite("tests.commands", "tests.run_folders", "tests.tuning.sweeps")

# How long an example takes depends on what else the machine does.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Rooms whose tests run whole commands. They come first: what is left for the end is short, and
# keeps all processes busy.
COMMANDS = ("launch", "slurm", "examples", "tuning", "shards")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep together, where tests run in several processes, what shares a service or a file, and
    begin with what takes longest; skip what needs a GPU where there is none.
    """
    items.sort(key=lambda item: item.path.parent.name not in COMMANDS)
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="there is no GPU here"))
        service = next((name for name in ("slurm", "s3") if item.get_closest_marker(name)), None)
        item.add_marker(pytest.mark.xdist_group(service or str(item.path)))


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Tell a figure of this test, or a table of them, in the summary of all tests."""
    return partial(record_property, "figure")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures of the tests that have passed."""
    told = [
        (report.nodeid, value)
        for report in terminalreporter.stats.get("passed", [])
        for name, value in report.user_properties
        if name == "figure"
    ]
    if told:
        terminalreporter.section("figures")
    for test, text in told:
        terminalreporter.write_line(
            f"{test}:\n    {text.strip().replace(chr(10), chr(10) + '    ')}"
        )


@pytest.fixture(scope="session")
def slurm() -> Iterator[slurm_service.Slurm]:
    """A Slurm cluster of two nodes on this machine."""
    if missing := slurm_service.missing_programs():
        _lacks(f"no {', '.join(missing)} here: apt-get install slurm-wlm munge")
    with slurm_service.cluster() as running:
        yield running


@pytest.fixture(scope="session")
def s3() -> Iterator[s3_service.Gateway]:
    """An S3 on this machine, that of Ceph."""
    if missing := s3_service.missing_programs():
        _lacks(
            f"no {', '.join(missing)} here: apt-get install ceph-mon ceph-osd radosgw ceph-common"
        )
    with s3_service.gateway() as running:
        yield running


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    """A browser without a window."""
    if missing := browser_service.missing_programs():
        _lacks(f"no {', '.join(missing)} here: apt-get install chromium")
    return Browser(tmp_path_factory.mktemp("profiles"))


@pytest.fixture(scope="session")
def references(tmp_path_factory: pytest.TempPathFactory) -> References:
    """The libraries that formats are compared with, in an environment of their own."""
    if missing := missing_references():
        _lacks(f"no {missing} here: make references")
    return References(tmp_path_factory)


def _lacks(what: str) -> None:
    """Skip where a user's machine lacks something; fail in CI, which has to install it."""
    if os.environ.get("CI") == "true":
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


@pytest.fixture
def make_recipe() -> Callable[..., Recipe]:
    """A small recipe; arguments replace its parts, `data` adds to its keys."""

    def made(*, data: dict[str, Any] | None = None, **parts: Any) -> Recipe:
        method = {
            "kind": "clip",
            "image": {"kind": "timm", "name": "test_resnet"},
            "text": {"kind": "transformer"},
        }
        shards = {"train": "train", "batch_size": 10} | (data or {})
        return Recipe.model_validate({"run": "run", "data": shards, "method": method} | parts)

    return made
