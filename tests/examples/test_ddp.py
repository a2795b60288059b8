"""The example of a DDP loop has one trace, whatever it runs on."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "ddp.py"


def losses(printed: str) -> list[float]:
    return [float(line.split()[-1]) for line in printed.splitlines() if line.startswith("step")]


def on_one_process(capsys: pytest.CaptureFixture[str], *words: str) -> list[float]:
    sys.argv[1:] = words
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    return losses(capsys.readouterr().out)


def test_two_processes_train_as_one_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE)])
    expected = on_one_process(capsys)
    assert len(expected) == 20
    assert expected[-1] < expected[0] / 3
    assert on_one_process(capsys, "--micro-batch", "24") == pytest.approx(expected, abs=2e-5)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", str(EXAMPLE), "--micro-batch", "8"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert losses(done.stdout) == pytest.approx(expected, abs=2e-5)


def test_the_example_stays_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 60
