"""Probes that are fitted on labelled shards, and sets of CLIP_benchmark's, by the commands."""

import shutil
from pathlib import Path

import pytest

from benchmarks.classification import COLOURS, TEMPLATES, write_set
from shards.index import index
from tests.commands import evaluate, train
from tests.run_folders import measured, results
from xmodal.runs.run import Run

BOTH = ("--protocol", "linear-probe", "--protocol", "knn")


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_probes_are_fitted_on_another_set(
    ranks: int, finished: Path, scenes: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    done = evaluate(run, *BOTH, "--probe-train", scenes / "train", ranks=ranks)
    assert done.code == 0, done.err
    assert "linear-probe: 48 images, fitted on 192, 8 classes" in done.out
    found = results(done.folder)
    assert measured(done.folder)["probe_train"]["url"] == f"{scenes}/train"
    for name in ("linear-probe/top1", "knn/accuracy@5"):
        assert found[name] > found[f"{name}_chance"]
    for line, given in {
        "--probe-train is for --protocol linear-probe and knn; name one": ("--probe-train", "x"),
        "linear-probe is fitted on labelled shards: name them in data.probe_train, or by": BOTH,
    }.items():
        assert line in evaluate(run, *given).error


@pytest.mark.slow
@pytest.mark.parametrize("cached", [False, True])
def test_training_measures_probes_and_chooses_by_them(
    cached: bool, recipe: Path, scenes: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = train(
        recipe,
        f"run={run}",
        f"data.probe_train={scenes}/train",
        "evaluation.protocols=[linear-probe, knn]",
        "checkpoints.best=knn/accuracy@20",
        *([f"data.feature_cache={tmp_path}/cache", "stages.0.train=[image.head, text]"] * cached),
    )
    assert done.code == 0, done.err
    assert "data.probe_train" in (run / "data.json").read_text()
    found = results(run)
    assert evaluate(run).folder == run
    # Features are float32 as the encoder made them, in batches of other sizes.
    assert results(run) == pytest.approx(found, abs=2.1 if cached else 1e-9)
    rows = [row for row in Run(run).history() if "knn/accuracy@20" in row]
    assert len(rows) == 4


@pytest.mark.slow
def test_a_set_of_clip_benchmark_is_measured_as_it_is(finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    write_set(tmp_path / "set", 60, captions=False)
    url = tmp_path / "set" / "test"
    index(str(url), 1)
    names = [word for one in ("zero-shot", "visual") for word in ("--protocol", one)]
    done = evaluate(run, "--data", url, *names)
    assert done.code == 0, done.err
    said = f"zero-shot: 60 images × {len(COLOURS)} classes, templates: {len(TEMPLATES)}"
    assert said in done.out
    assert measured(done.folder)["templates"][0] == TEMPLATES[0].replace("{c}", "{}")
    (tmp_path / "set" / "classnames.txt").write_text("\n".join(COLOURS[::-1]) + "\n")
    other = evaluate(run, "--data", url, *names)
    assert other.folder != done.folder  # of other names, so other results
    error = evaluate(run, "--data", url).error
    assert "has classes and no captions, which all-captions is measured by; choose" in error


@pytest.mark.slow
def test_training_measures_a_set_without_captions(recipe: Path, tmp_path: Path) -> None:
    """Its features are cached, and its class names lie beside the images."""
    run, url = tmp_path / "run", tmp_path / "set" / "test"
    write_set(tmp_path / "set", 60, captions=False)
    index(str(url), 1)
    done = train(
        recipe,
        f"run={run}",
        f"data.val={url}",
        f"data.feature_cache={tmp_path}/cache",
        "stages.0.train=[image.head, text]",
        "evaluation.protocols=[zero-shot]",
        "checkpoints.best=zero-shot/top1",
    )
    assert done.code == 0, done.err
    found = results(run)
    assert found["zero-shot/num_classes"] == len(COLOURS)
    assert evaluate(run).folder == run
    assert results(run) == pytest.approx(found)
