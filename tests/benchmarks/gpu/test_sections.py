"""All sections of `make gpu`, in small form on the CPU."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu.goals import GOALS
from benchmarks.gpu.lines import read
from benchmarks.gpu.runner import ROOT
from benchmarks.gpu.sections import SECTIONS


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_section_comes_to_its_end_on_a_cpu(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--results", tmp_path / "it"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = read(tmp_path / "it")
    ended = [line.section for line in lines if line.name == "section"]
    assert ended == [section.name for section in SECTIONS]
    assert [line for line in lines if line.ok is False] == []
    sections = {line.section for line in lines if line.ok is not None and line.name != "section"}
    assert sections == {"kernels", "steps", "resume", "ranks", "loading"}
    assert "goals are those of a GPU and are not judged" in done.stdout.replace("\n", " ")
    assert done.stdout.count("not measured") == len(GOALS)


def test_help_answers_without_torch() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "benchmarks.gpu", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "make gpu DEVICE=cpu" in done.stdout
    assert "torch" not in {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
