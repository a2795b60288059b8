"""`slurm/shards.sbatch`, `slurm/evaluate.sbatch` and `slurm/embed.sbatch`, on a real Slurm of two
nodes.
"""

from pathlib import Path

import pytest

from shards.build import build
from tests.run_folders import results
from tests.search.embedding_folders import embedded_files
from tests.services.slurm import Slurm
from tests.slurm.conftest import ROOT

pytestmark = pytest.mark.slurm


def files(folder: Path) -> dict[str, bytes]:
    """Return what each file below a folder holds, but for where its split lies."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}


def test_an_array_makes_the_shards_of_one_build(slurm: Slurm, tmp_path: Path) -> None:
    to, options = tmp_path / "parts", {"train": 24, "val": 6}
    build(
        "scenes", tmp_path / "whole", options=options, splits=["train", "val"], samples_per_shard=4
    )
    words = ["scenes", "train=24", "val=6", "--split", "train", "--split", "val", "--to", str(to)]
    given = ["--array=2-3", "--cpus-per-task=1", f"--output={tmp_path}/%a.log"]
    given += [f"--job-name={tmp_path}/job", "slurm/shards.sbatch", *words, "--samples-per-shard=4"]
    number = slurm.submit(*given, cwd=ROOT)
    ends = [slurm.wait(f"{number}_{task}", 120)["JobState"] for task in (2, 3)]
    said = "".join(path.read_text() for path in tmp_path.glob("*.log"))
    assert ends == ["COMPLETED", "COMPLETED"], said
    assert files(to) == files(tmp_path / "whole")


@pytest.mark.slow  # the ranks of launch/evaluate.py are tested without Slurm
def test_two_nodes_evaluate_a_run(slurm: Slurm, finished: Path, tmp_path: Path) -> None:
    before = results(finished)
    (finished / "results.json").unlink()
    out = [f"--output={tmp_path}/log", f"--job-name={tmp_path}/job", "--nodes=2"]
    number = slurm.submit(*out, "slurm/evaluate.sbatch", str(finished), cwd=ROOT)
    assert slurm.wait(number, 200)["ExitCode"] == "0:0", (tmp_path / "log").read_text()
    assert results(finished) == pytest.approx(before)
    assert "text → image" in (tmp_path / "log").read_text()


@pytest.mark.slow  # the ranks of launch/embed.py are tested without Slurm
def test_two_nodes_embed_shards(
    slurm: Slurm, finished: Path, tens: Path, embedded_tens: Path, tmp_path: Path
) -> None:
    out = [f"--output={tmp_path}/log", f"--job-name={tmp_path}/job", "--nodes=2"]
    words = [str(finished), "--data", str(tens), "--to", f"{tmp_path}/to"]
    words += ["--dtype", "float32", "--batch-size", "8"]
    number = slurm.submit(*out, "slurm/embed.sbatch", *words, cwd=ROOT)
    assert slurm.wait(number, 200)["ExitCode"] == "0:0", (tmp_path / "log").read_text()
    assert embedded_files(tmp_path / "to") == embedded_files(embedded_tens)
    assert "samples/s" in (tmp_path / "log").read_text()
