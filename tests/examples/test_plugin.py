"""The example of a plugin: a package outside the tree whose components train like xmodal's own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.commands import ROOT, evaluate, train
from tests.processes import on_ranks
from tests.run_folders import evaluations, results, steps

PLUGIN = ROOT / "examples" / "plugin"
SMALL = (
    *("stages.0.length=16 steps", "evaluation.every=8 steps", "checkpoints.every=4 steps"),
    *("training.log_every=1", "data.workers=0"),
)
STEPS = 16


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example, which nothing else has on its path."""
    return shutil.copytree(PLUGIN, tmp_path_factory.mktemp("plugin") / "example")


@pytest.fixture(scope="module")
def trained(place: Path) -> Iterator[Path]:
    """The example's recipe, trained on two ranks; it has made its shards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(place)  # commands inherit it
        done = train(*given(place, "whole"), ranks=2)
        assert done.code == 0, done.err
        assert "two-choice: 64 pairs" in done.out
        yield place / "whole"


def given(place: Path, run: str) -> list[object]:
    shards = (f"data.{split}={place}/data/tiles/{split}" for split in ("train", "val"))
    return [place / "recipe.yaml", f"run={place / run}", *shards, *SMALL]


def test_its_recipe_learns_and_is_measured_by_its_protocol(trained: Path) -> None:
    losses = list(steps(trained).values())
    assert len(losses) == STEPS
    assert sum(losses[-4:]) < 0.7 * sum(losses[:4])
    assert list(evaluations(trained)) == [8, 16]
    found = results(trained)
    assert found["two-choice/accuracy"] > 70
    assert found["two-choice/accuracy_chance"] == 50
    assert found["all-captions/rsum"] > 0
    assert "two-choice" in (trained / "report" / "index.html").read_text()


def test_a_run_of_it_that_is_killed_resumes_with_the_same_losses(
    trained: Path, place: Path
) -> None:
    killed = train(
        *given(place, "killed"), ranks=2, killed_at="xmodal.training.trainer:Trainer._log:11"
    )
    assert killed.code == -9
    done = train(*given(place, "killed"), ranks=2)
    assert done.code == 0, done.err
    assert "steps 9 to 16" in done.out
    assert steps(place / "killed") == steps(trained)


def test_evaluate_wants_it_named(trained: Path) -> None:
    line = evaluate(trained).error
    assert "needs the plugin xmodal_example, and a run folder alone imports no code" in line
    done = evaluate(trained, "--plugin", "xmodal_example", "--protocol", "two-choice")
    assert done.code == 0, done.err
    assert "image → text" in done.out
    assert f"{results(trained)['two-choice/image_to_text/accuracy']:.1f}" in done.out


def test_where_it_is_not_importable_one_line_says_so(
    trained: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(place)])
    missing = "there is no module xmodal_example; install it, start the command in the folder that"
    assert missing in evaluate(trained, "--plugin", "xmodal_example").error
    assert missing in train(*given(place, "whole")).error


def test_its_model_loads_in_python(trained: Path) -> None:
    (images, texts, embedded) = on_ranks(1, encode, trained)[0]
    assert images.shape == texts.shape == (2, 64)
    torch.testing.assert_close(embedded, torch.ones(2))


def encode(run: Path) -> tuple[Tensor, Tensor, Tensor]:
    import numpy as np

    import xmodal

    model = xmodal.load(run, plugins=["xmodal_example"])
    texts = model.encode_texts(["a red tile, plain", "a blue tile, dotted in white"])
    images = model.encode_images(np.zeros((2, 40, 50, 3), np.uint8))
    return images, texts, texts.norm(dim=1)


def test_its_objective_is_that_of_the_global_batch(trained: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    whole = F.normalize(torch.randn(2, 24, 8, generator=generator, dtype=torch.float64), dim=2)
    x, y = whole.unbind()
    x.requires_grad_()
    cosines = x @ y.T
    own = torch.eye(24, dtype=torch.bool)
    logits = 16 * torch.where(own, (cosines.diagonal().acos() + 0.2).cos(), cosines)
    places = torch.arange(24)
    loss = (F.cross_entropy(logits, places) + F.cross_entropy(logits.T, places)) / 2
    shares, gradients = zip(*on_ranks(2, angular, whole, [7, 17]), strict=True)
    # Both are means over ranks, those of the gradients by the rows of each.
    assert sum(shares) / 2 == pytest.approx(float(loss.detach()), rel=1e-8)
    expected = torch.autograd.grad(loss, x)[0]
    torch.testing.assert_close(torch.cat(gradients) / 2, expected, rtol=1e-6, atol=1e-9)


def angular(whole: Tensor, cut: list[int]) -> tuple[float, Tensor]:
    from xmodal_example.objective import Angular

    x, y = whole.split(cut, dim=1)[torch.distributed.get_rank()]
    x.requires_grad_()
    share = Angular(margin=0.2)(x, y)
    return float(share.detach()), torch.autograd.grad(share, x)[0]


def command(name: str, *words: object, folder: Path, path: Path | None = None) -> str:
    """Run a command in a folder, with another one on Python's path; return its output."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "launch" / f"{name}.py"), *map(str, words)],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{path or ''}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_its_keys_are_searched_by_a_sweep(trained: Path, place: Path) -> None:
    words = (*given(place, "")[2:], "--space", "space.yaml", "--sweep", "sweep")
    (place / "space.yaml").write_text(
        (place / "space.yaml").read_text().replace("trials: 4", "trials: 2")
    )
    command("tune", "recipe.yaml", *words, folder=place)
    table = (place / "sweep" / "trials.csv").read_text().splitlines()
    assert len(table) == 3  # a head and a row a trial
    assert "method.objective.margin" in table[0]


@pytest.mark.slow
def test_installed_it_is_found_by_its_entry_point(trained: Path, tmp_path: Path) -> None:
    install = ["-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index"]
    source = shutil.copytree(PLUGIN, tmp_path / "source")
    subprocess.run(
        [sys.executable, *install, "--target", tmp_path / "packages", source], check=True
    )
    recipe = shutil.copy(PLUGIN / "recipe.yaml", tmp_path / "mine.yaml")
    words = (*given(trained.parent, "")[2:], "plugins=[]")
    printed = command("train", recipe, *words, folder=tmp_path, path=tmp_path / "packages")
    assert "two-choice: 64 pairs" in printed
    run = tmp_path / "runs" / "mine"
    printed = command("evaluate", run, folder=tmp_path, path=tmp_path / "packages")
    assert "two-choice: 64 pairs" in printed


def test_help_lists_its_keys(trained: Path) -> None:
    printed = train("--help", "plugins=xmodal_example").out
    assert "method.objective.margin (0.1)\n      angle, radians" in printed
