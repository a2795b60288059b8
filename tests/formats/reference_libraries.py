"""Runs of scripts by the libraries that formats are compared with (open_clip, transformers, …).

A script of `tests/formats/references` is called as `python NAME.py FOLDER [ARGUMENT…]`, in an
environment without ours, and writes what tests read into FOLDER: models with small random weights,
and tensors of inputs and outputs as `.safetensors`.
"""

import os
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

HERE = Path(__file__).parent
PYTHON = HERE.parents[1] / ".venv-references" / "bin" / "python"
ALONE = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def missing_references() -> str | None:
    """Return the environment that has to be made, if it is missing."""
    return None if PYTHON.exists() else PYTHON.parents[1].name


class References:
    """Outputs of the libraries, each script run once a session for the same arguments."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self.folders = folders
        self.written: dict[tuple[str, ...], Path] = {}

    def folder(self, script: str, *arguments: str | Path) -> Path:
        """Return the folder that a script has written. Fails with what it printed."""
        call = (script, *map(str, arguments))
        if call not in self.written:
            self.written[call] = self._run(*call)
        return self.written[call]

    def tensors(self, script: str, *arguments: str | Path) -> dict[str, Tensor]:
        """Return the tensors of the one safetensors file that a script has written."""
        (file,) = self.folder(script, *arguments).glob("*.safetensors")
        return load_file(file)

    def _run(self, script: str, *arguments: str) -> Path:
        folder = self.folders.mktemp(script)
        done = subprocess.run(
            [PYTHON, HERE / "references" / f"{script}.py", folder, *arguments],
            capture_output=True,
            text=True,
            env=os.environ | ALONE,
        )
        assert done.returncode == 0, f"{script} {arguments}:\n{done.stdout}{done.stderr}"
        return folder
