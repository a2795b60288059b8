"""What tests share: the services that are started once a session, and who may skip."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.services.slurm import Slurm, cluster, missing_programs

# How long an example takes depends on what else the machine does.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """A Slurm cluster of two nodes on this machine."""
    if missing := missing_programs():
        _lacks(f"no {', '.join(missing)} here: apt-get install slurm-wlm munge")
    with cluster() as running:
        yield running


def _lacks(what: str) -> None:
    """Skip where a user's machine lacks something; fail in CI, which has to install it."""
    if os.environ.get("CI") == "true":
        pytest.fail(what, pytrace=False)
    pytest.skip(what)
