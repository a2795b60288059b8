"""Tests of the project within a section, each recorded as soon as it has run."""

import pytest

from benchmarks.gpu.runner import ROOT
from benchmarks.gpu.sections import Bench


def run_tests(bench: Bench, *words: str) -> None:
    """Run pytest with some words, from the checkout; a run without tests has failed too.

    Without the tests' conftest, which knows services that a machine with a GPU need not have.
    """
    given = ["-q", "--noconftest", "-p", "no:cacheprovider", f"--rootdir={ROOT}", *words]
    code = pytest.main(given, plugins=[_Outcomes(bench)])
    bench.record("tests", f"pytest: {pytest.ExitCode(code).name}", ok=code == 0)


class _Outcomes:
    """Plugin of pytest that records tests."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record a test's outcome; of one that fails before it begins, that too."""
        if report.when == "call" or report.failed:
            name = report.nodeid.rpartition("/")[2]
            self.bench.record(name, report.duration, "s", ok=not report.failed)
