"""The runner of `make gpu`: limits, lines that stay, the table."""

import os
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.gpu import runner
from benchmarks.gpu.goals import GOALS
from benchmarks.gpu.lines import Line, append, last_run, read
from benchmarks.gpu.sections import SECTIONS, Section
from benchmarks.gpu.table import HEADING, markdown, put

# Measures, starts a process in a session of its own, and then waits for ever.
HANGS = """
import subprocess, sys, time
def measure(bench):
    bench.record("measured before", 1.5, "ms")
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                             start_new_session=True)
    (bench.work / "child").write_text(str(other.pid))
    time.sleep(600)
"""
ENDS = 'def measure(bench):\n    bench.record("check", 0, ok=True)\n'
FAILS = 'def measure(bench):\n    bench.record("check", 1, ok=False, note="why")\n'
BREAKS = 'def measure(bench):\n    raise ValueError("broken")\n'
MISTAKEN = (
    "from xmodal.errors import UserError\ndef measure(bench):\n    raise UserError('mend this')\n"
)


def run(folder: Path, *sources: str, seconds: float = 30) -> bool:
    sections = []
    for number, source in enumerate(sources):
        (folder / f"section{number}.py").write_text(source)
        limit = 6 if source is HANGS else seconds
        sections.append(Section(f"section{number}", limit))
    return runner.run(
        sections,
        device="cpu",
        results=folder / "lines",
        work=folder,
        variables={"PYTHONPATH": os.pathsep.join([str(folder), str(runner.ROOT)])},
    )


def test_a_section_is_killed_with_its_children_and_its_lines_stay(tmp_path: Path) -> None:
    assert not run(tmp_path, HANGS, ENDS)
    first, killed, check, ended = read(tmp_path / "lines")
    assert first == Line("section0", "measured before", 1.5, "ms")
    assert (killed.name, killed.ok, killed.note) == ("section", False, "killed at its limit of 6 s")
    assert (check.section, check.ok, ended.ok) == ("section1", True, True)
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 20
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_check_that_fails_and_a_section_that_breaks_fail_the_run(tmp_path: Path) -> None:
    assert not run(tmp_path, BREAKS, FAILS)
    broken, check, ended = read(tmp_path / "lines")
    assert (broken.name, broken.ok, broken.note) == ("section", False, "exit code 1")
    assert (check.ok, ended.ok) == (False, True)


def test_a_mistake_of_the_users_ends_the_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert not run(tmp_path, MISTAKEN, ENDS)
    (only,) = read(tmp_path / "lines")
    assert only.note == "exit code 2"
    assert capfd.readouterr().err == "error: mend this\n"


def test_what_runs_before_does_not_count(tmp_path: Path) -> None:
    append(tmp_path / "lines", Line("section9", "check", ok=False))
    assert run(tmp_path, ENDS)


def test_all_sections_fit_into_eight_minutes() -> None:
    # The rest is for wheels that are installed, and for processes that end.
    assert sum(section.seconds for section in SECTIONS) <= runner.WHOLE - 10
    assert runner.WHOLE == 8 * 60


LINES = [
    Line("run", "2026-11-29T12:00:00+00:00"),
    Line("machine", "hardware", "NVIDIA H200"),
    Line("machine", "torch", "2.11.0"),
    Line("machine", "CUDA", "13.0"),
    Line("machine", "section", 9.0, "s", ok=True),
    Line("kernels", "InfoNCE, fp32: beside float64", 1e-6, ok=True),
    Line("kernels", "sigmoid, fp32: beside float64", 0.5, ok=False, note="why"),
    Line("kernels", "section", 60.0, "s", ok=False, note="killed at its limit of 60 s"),
    Line("towers", "B/32, plain: MFU", 0.31),
    Line("towers", "B/32, compiled: MFU", 0.41),
    Line("towers", "B/32, compiled: samples", 8192.0, "samples/s"),
    Line("towers", "L/14, plain: MFU", 0.3),
    Line("towers", "section", 100.0, "s", ok=True),
    Line("losses", "InfoNCE 65,536: ours, time", 400.0, "ms"),
    Line("losses", "section", 30.0, "s", ok=True),
]


def test_the_table_has_the_hardware_the_goals_and_what_failed() -> None:
    text = markdown(LINES)
    assert text.startswith(f"{HEADING}\n\n    make gpu\n\nNVIDIA H200; torch 2.11.0; 2026-11-29")
    assert "| MFU of ViT-B/32, at least 40 % | 41 % | yes |" in text
    assert "| MFU of ViT-L/14, at least 45 % | 30 % | no |" in text
    assert "| MFU of ViT-B/16, at least 45 % | not measured |  |" in text
    # 400 ms beside the 8 s of a step of 65,536.
    assert "| InfoNCE of 64k, at most 2 % of B/32's step | 5 % | no |" in text
    assert "| kernels | 1 of 2 | 60 s | killed at its limit of 60 s |" in text
    assert "| kernels | sigmoid, fp32: beside float64 | 0.5 | why |" in text
    assert "| B/32, compiled: samples | 8,192 samples/s |  |" in text


def test_without_a_gpu_the_table_says_so() -> None:
    assert "None of what follows has run on a GPU yet" in markdown([])
    assert markdown([]).count("not measured") == len(GOALS)
    assert "on a CPU: goals are those of a GPU" in markdown(LINES[:3])


def test_the_table_of_the_last_run_takes_the_place_of_the_one_before() -> None:
    page = "# Results\n\n## First\n\ntext\n\n## Last\n\nmore\n"
    with_section = put(page, markdown([]))
    assert with_section.startswith(page)
    between = with_section + "\n## After\n\nit\n"
    again = put(between, markdown(LINES))
    assert again == page + "\n" + markdown(LINES) + "\n## After\n\nit\n"
    assert last_run([*LINES, *LINES[:2]]) == LINES[:2]
