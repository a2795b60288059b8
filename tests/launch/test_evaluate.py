"""`launch/evaluate.py` on the run of `launch/train.py`."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import xmodal
from tests.commands import evaluate, train
from tests.commands import run as command
from tests.launch.conftest import STEPS
from tests.pretrained_models import write_pretrained
from tests.run_folders import measured, results
from tests.shard_sets import encode, plain, write_shards
from xmodal.data.evaluation import EvaluationSet
from xmodal.data.manifest import read_manifest
from xmodal.data.reader import SampleReader
from xmodal.evaluation.config import EvaluationConfig
from xmodal.evaluation.retrieval import evaluate_retrieval
from xmodal.runs.run import Run

CPU = torch.device("cpu")


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A finished run of the test's own, without the results that training wrote."""
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "results.json").unlink()
    shutil.rmtree(folder / "report")
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    """Return the files of a folder, but for what is measured of other data."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files if "evaluations" not in path.parts}


def logged(run: Path, step: int) -> dict[str, float]:
    """Return the metrics that training measured after a step."""
    rows = [row for row in Run(run).history() if "loss" not in row and row["step"] == step]
    return {name: value for name, value in rows[0].items() if name not in {"step", "stage"}}


@pytest.mark.parametrize("ranks", [1, 2])
def test_it_measures_what_training_measured(ranks: int, run: Path, finished: Path) -> None:
    done = evaluate(run, ranks=ranks)
    assert done.code == 0, done.err
    assert results(run) == pytest.approx(results(finished))
    assert "<img" in (run / "report" / "index.html").read_text()
    table = (finished / "printed").read_text().partition("relevance: ")[2].partition("report")[0]
    assert f"\n{run}/checkpoints/step-24 on " in f"\n{done.out}"  # a slow start is reported before
    assert done.out.count("relevance: " + table) == 1


def test_a_checkpoint_by_name(run: Path) -> None:
    kept = {path.name for path in (run / "checkpoints").glob("step-*")}
    best = max((6, 12, 18, 24), key=lambda step: (logged(run, step)["relevance/rsum"], -step))
    for name, step in (("step-18", 18), ("best", best)):
        assert f"step-{step}" in kept
        done = evaluate(run, "--checkpoint", name)
        folder = done.folder
        assert f"checkpoints/step-{step} on " in done.out
        assert results(folder) == logged(run, step)
        assert measured(folder)["checkpoint"] == f"step-{step}"
        assert (folder == run) == (step == 24)


def test_another_protocol(run: Path) -> None:
    found = results(evaluate(run, "--protocol", "all-captions").folder)
    assert {name.split("/")[0] for name in found} == {"all-captions"}
    name = "text_to_image/recall@10"
    # Fewer images count as right.
    assert found[f"all-captions/{name}"] < logged(run, 24)[f"relevance/{name}"]
    assert found[f"all-captions/{name}_chance"] == pytest.approx(1000 / 48)


def test_several_protocols_at_once(run: Path) -> None:
    asked = ("all-captions", "relevance", "class", "gap", "zero-shot")
    done = evaluate(run, *(word for name in asked for word in ("--protocol", name)))
    folder = done.folder
    found = results(folder)
    assert measured(folder)["protocols"] == [*asked]
    assert {name.split("/")[0] for name in found} == set(asked)
    assert {k: v for k, v in found.items() if k.startswith("relevance/")} == logged(run, 24)
    for title in ("all-captions: 48 images × 240 texts", "relevance: 48 images × 240 texts"):
        assert done.out.count(title) == 1
    for title in ("class: 48 images × 240 texts, 8 classes", "zero-shot: 48 images × 8 classes"):
        assert done.out.count(title) == 1
    assert done.out.count("gap: 48 pairs") == 1
    assert (folder / "report" / "index.html").read_text().count('<svg viewBox="0 0 480') == 3


def test_results_of_other_data_leave_the_runs_own_alone(
    finished: Path, recipe: Path, scenes: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    before = contents(run)
    done = evaluate(run, "--data", scenes / "train")
    assert done.out.startswith(f"{run}/checkpoints/step-24 on {scenes}/train by all-captions\n")
    folder = done.folder
    assert folder.parent == run / "evaluations"
    assert (results(folder)["all-captions/num_images"], measured(folder)["data"]["samples"]) == (
        192,
        192,
    )
    assert results(folder)["all-captions/num_texts"] == 960
    assert measured(folder)["data"]["url"] == f"{scenes}/train"
    page = (folder / "report" / "index.html").read_text()
    assert f"{scenes}/train" in page
    assert measured(folder)["data"]["fingerprint"] in page
    # The same again replaces itself, and nothing else.
    assert evaluate(run, "--data", f"{scenes}/train/").folder == folder
    (other,) = {evaluate(run, "--data", scenes / "train", "--protocol", "gap").folder}
    assert sorted((run / "evaluations").iterdir()) == sorted([folder, other])
    assert contents(run) == before
    # Training has nothing left to do, and prints its own results.
    again = train(
        recipe, f"run={run}", "evaluation.protocols=[all-captions,relevance]", "data.workers=1"
    )
    assert again.code == 0, again.err
    assert again.out.startswith(f"Finished: step {STEPS} of {STEPS}. ")
    assert "so the new data.workers, evaluation.protocols has no effect" in again.out
    table = (finished / "printed").read_text().partition("relevance: ")[2].partition("report")[0]
    assert again.out.count("relevance: " + table) == 1
    assert "all-captions" not in again.out
    own = {path: data for path, data in contents(run).items() if path.name != "lock"}
    assert own == {path: data for path, data in before.items() if path.name != "lock"}


def test_results_of_data_that_changed_leave_the_runs_own_alone(
    finished: Path, scenes: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    val = shutil.copytree(scenes / "val", tmp_path / "val")
    text = (run / "recipe.yaml").read_text().replace(str(scenes / "val"), str(val))
    (run / "recipe.yaml").write_text(text)
    (run / "results.json").write_text(
        (run / "results.json").read_text().replace(str(scenes / "val"), str(val))
    )
    before = contents(run)
    assert evaluate(run).folder == run
    assert contents(run).keys() == before.keys()
    for path in (scenes / "train").iterdir():
        shutil.copy(path, val)
    (val / "relevance.json").unlink()
    before = contents(run)
    assert evaluate(run, "--protocol", "all-captions").folder.parent == run / "evaluations"
    assert contents(run) == before
    done = evaluate(run)
    assert done.folder.parent == run / "evaluations"
    assert f"{run}/results.json is of other data or settings than there are now" in done.out
    assert contents(run) == before


def test_the_results_of_an_earlier_version_are_not_taken_for_the_runs_own(
    finished: Path, recipe: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    own = results(run)
    for kept, warns in ((own, False), ({"gap/pairs": 7.0}, True)):
        (run / "results.json").write_text(json.dumps(kept))
        again = train(recipe, f"run={run}")
        assert again.code == 0, again.err
        assert "relevance: 48 images" in again.out
        assert "gap" not in again.out
        assert ("results.json and its report are of another evaluation" in again.out) == warns
    assert evaluate(run).folder == run
    assert results(run) == pytest.approx(own)


def test_output_takes_a_folder_of_its_own_alone(run: Path, scenes: Path, tmp_path: Path) -> None:
    to = tmp_path / "deep" / "mine"
    words = ("--data", scenes / "train", "--output", to)
    for _ in range(2):
        assert evaluate(run, *words).folder == to
    before = contents(tmp_path)
    other = ("--data", scenes / "val", "--output")
    (tmp_path / "notes").write_text("mine")
    for folder, fault in {
        to: "holds results of something else",
        scenes: "holds other files",
        run: "holds other files",
        tmp_path / "notes": "is a file",
        tmp_path / "notes" / "below": "is a file",
        "s3://bucket/results": "name a folder on a disk",
    }.items():
        assert fault in evaluate(run, *other, folder).error
    assert contents(tmp_path) == {**before, tmp_path / "notes": b"mine"}


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_pretrained_model_is_measured(ranks: int, scenes: Path, tmp_path: Path) -> None:
    source, to = write_pretrained(tmp_path / "models" / "clip"), tmp_path / "results"
    files = contents(source)
    words = (source, "--data", scenes / "val", "--output", to)
    done = evaluate(*words, ranks=ranks)
    assert done.folder == to
    assert f"\n{source} on {scenes}/val by relevance" in f"\n{done.out}"
    assert done.out.count("report: ") == 1
    model, data = xmodal.load(source, device="cpu"), read_manifest(str(scenes / "val"))
    dataset = EvaluationSet(SampleReader(data), model.transform, model.tokenizer)
    given = (model.method, dataset, data.relevance, EvaluationConfig())
    expected = evaluate_retrieval(*given, device=CPU, workers=0, max_bad_share=0)
    assert results(to) == pytest.approx(expected.metrics)
    assert contents(source) == files
    assert evaluate(*words).folder == to  # the same measurement again
    weights = measured(to)["weights"]
    other = write_pretrained(tmp_path / "other" / "clip", embedding=4)
    assert "holds results of something else" in evaluate(other, *words[1:]).error
    assert measured(to)["weights"] == weights


@pytest.mark.parametrize("to", ["xmodal", pytest.param("onnx", marks=pytest.mark.slow)])
def test_an_exported_model_is_measured_as_its_run(to: str, run: Path, tmp_path: Path) -> None:
    own, folder = results(evaluate(run).folder), tmp_path / "model"
    assert command("export.py", run, "--to", folder, "--format", to).code == 0
    files = contents(folder)
    assert "name a folder for the results: --output DIR" in evaluate(folder).error
    done = evaluate(folder, "--output", tmp_path / "results")  # on the shards of its recipe
    assert results(done.folder) == pytest.approx(own, abs=1e-6 if to == "xmodal" else 1e-3)
    assert contents(folder) == files


@pytest.mark.slow
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_checkpoints_that_ranks_share(zero: int, recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train(recipe, f"run={run}", f"training.zero={zero}", ranks=2).code == 0
    trained = results(run)
    done = evaluate(run, ranks=1)
    assert done.code == 0, done.err
    assert results(run) == pytest.approx(trained)


@pytest.fixture(scope="module")
def composed(queries: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of TIRG that came to its end."""
    folder = tmp_path_factory.mktemp("composed") / "run"
    encoder = "{kind: timm, name: test_resnet, size: 32, weights: random}"
    done = train(
        "tirg",
        f"run={folder}",
        f"data.train={queries}/composed_train",
        f"data.val={queries}/composed_val",
        f"data.gallery={queries}/composed_gallery",
        "data.batch_size=8",
        "data.workers=0",
        f"method.image={encoder}",
        "method.text={kind: lstm, word: 8, width: 8}",
        "method.embedding=16",
        "stages.0.length=2 steps",
        "stages.0.schedule={kind: constant, warmup: 0}",
        "evaluation.protocols=null",
        "checkpoints.best=composed/recall@10",
    )
    assert done.code == 0, done.err
    return folder


@pytest.mark.parametrize("ranks", [1, 2])
def test_composed_queries_are_searched_in_a_gallery(
    ranks: int, composed: Path, queries: Path, tmp_path: Path
) -> None:
    trained = results(composed)
    run = shutil.copytree(composed, tmp_path / "run")
    (run / "results.json").unlink()
    done = evaluate(run, "--gallery", queries / "composed_gallery", ranks=ranks)
    assert done.code == 0, done.err
    assert results(run) == pytest.approx(trained)
    images = int(trained["composed/num_images"])
    assert f"composed: 12 queries × {images} images" in done.out
    page = (run / "report" / "index.html").read_text()
    assert "Images found for an image and its modification" in page


def test_a_submission_to_cirr(composed: Path, queries: Path, scenes: Path, tmp_path: Path) -> None:
    run = shutil.copytree(composed, tmp_path / "run")
    (run / "results.json").unlink()
    names = [f"g{number}" for number in range(60)]
    picture = encode(plain(7, (32, 32)))
    gallery = {
        name: {"png": picture, "json": json.dumps({"image_id": name, "gallery": True}).encode()}
        for name in names
    }
    asked = {"modification": "red", "source_id": "g3", "pairid": 7, "members": names[:6]}
    test1 = {"q": {"source.png": picture, "json": json.dumps(asked).encode()}}
    write_shards(tmp_path / "gallery", [gallery])
    write_shards(tmp_path / "test1", [test1])
    words = ("--data", tmp_path / "test1", "--gallery", tmp_path / "gallery")
    to = tmp_path / "submission"
    done = evaluate(run, *words, "--protocol", "cirr", "--submission", to)
    assert done.code == 0, done.err
    assert done.out.endswith(f"{to}/recall.json\n{to}/recall_subset.json\n")
    counts = {"recall": 50, "recall_subset": 3}
    for metric, count in counts.items():
        answers = json.loads((to / f"{metric}.json").read_text())
        assert (answers["version"], answers["metric"]) == ("rc2", metric)
        assert len(set(answers["7"]) - {"g3"}) == count
    again = evaluate(run, *words, "--protocol", "cirr", "--submission", to).error
    assert again == (
        f"{to}/recall.json exists; remove it, or name another folder: --submission DIR"
    )
    assert not (run / "results.json").exists()
    assert "do not say which image they ask for" in evaluate(run, *words).error
    plain_shards = evaluate(run, "--data", scenes / "val").error
    assert "tirg reads composed queries (KEY.source.jpg, KEY.target.jpg, a modif" in plain_shards
    swapped = evaluate(run, "--data", queries / "composed_val", "--gallery", tmp_path / "test1")
    assert "holds composed queries (KEY.source.jpg, KEY.target.jpg), but single" in swapped.error
    wrong = evaluate(run, *words, "--protocol", "css", "--submission", to).error
    assert wrong == "--submission is for --protocol cirr alone"


@pytest.mark.parametrize("weights", ["hub", "/nowhere/weights.safetensors"])
def test_first_weights_are_asked_of_no_hub_and_no_file(weights: str, run: Path) -> None:
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe.replace("weights: random", f"weights: {weights}"))
    assert weights in (run / "recipe.yaml").read_text()
    done = evaluate(run, environment={"HF_HUB_OFFLINE": "1"})
    assert done.folder == run
    assert results(run) == logged(run, STEPS)


MISTAKES = {
    "a gallery for a method that has no queries": (
        ["RUN", "--gallery", "SCENES/val"],
        "--gallery is for composed queries, and RUN has none",
    ),
    "a folder that is none": (["SCENES"], "is no run folder; to measure a model that"),
    "a folder that is missing": (["SCENES/x"], "x is no run folder: there is no such folder"),
    "a model and no data": (
        ["hf-hub:a/b", "--output", "x"],
        "no shards to measure on; give --data",
    ),
    "a model and no folder for results": (
        ["RUN/checkpoints", "--data", "x"],
        "checkpoints is no run folder; to measure a model that is none, name a folder for the",
    ),
    "a model and a checkpoint": (
        ["RUN/recipe.yaml", "--checkpoint", "best"],
        "recipe.yaml is no run folder: it has no checkpoint or weights to choose",
    ),
    "a file": (
        ["RUN/recipe.yaml", "--data", "SCENES/val", "--output", "RUN/new"],
        "recipe.yaml is in no format that xmodal reads",
    ),
    "a checkpoint that is not kept": (
        ["RUN", "--checkpoint", "step-3"],
        "keeps no checkpoint step-3; there are: step-",
    ),
    "a checkpoint that is the folder of all": (
        ["RUN", "--checkpoint", "../checkpoints"],
        "keeps no checkpoint ../checkpoints; there are: step-",
    ),
    "no checkpoint": (["RUN", "--checkpoint", ""], "--checkpoint is empty; give it a value"),
    "no data": (["RUN", "--data", ""], "--data is empty; give it a value, or omit it"),
    "no gallery": (["RUN", "--gallery", " "], "--gallery is empty; give it a value"),
    "an option that is none": (
        ["RUN", "--dta", "x"],
        "unrecognized arguments: --dta x; see: python launch/evaluate.py --help",
    ),
    "a submission and results": (
        ["RUN", "--submission", "a", "--output", "b"],
        "--output is for results, and --submission measures none; omit one",
    ),
    "shards that are not there": (
        ["RUN", "--data", "nowhere"],
        "there is no folder nowhere with shards",
    ),
    "a protocol that the shards have nothing for": (
        ["RUN", "--data", "SCENES/train", "--protocol", "relevance"],
        "train has no relevance.json, which relevance reads; use all-captions",
    ),
    "a protocol of another size": (
        ["RUN", "--protocol", "gap", "--protocol", "coco-5k"],
        "coco-5k is measured on exactly 5,000 images, but SCENES/val has 48; use the split",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake: str, run: Path, scenes: Path) -> None:
    words, line = MISTAKES[mistake]
    given = [word.replace("RUN", str(run)).replace("SCENES", str(scenes)) for word in words]
    line = line.replace("SCENES", str(scenes)).replace("RUN", str(run))
    assert line in evaluate(*given).error
    assert not (run / "results.json").exists()


def test_a_run_without_val_or_checkpoint(recipe: Path, run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    assert "has no checkpoint yet; train it first" in evaluate(run).error
    blind = tmp_path / "blind"
    assert train(recipe, f"run={blind}", "data.val=null", "stages.0.length=1 steps").code == 0
    assert "was trained without data.val; give --data URL" in evaluate(blind).error


@pytest.mark.slow
def test_results_of_a_width_have_a_folder_of_their_own(run: Path) -> None:
    whole = contents(run)
    done = evaluate(run, "--width", "16")
    assert done.code == 0, done.err
    assert "step-24 at width 16 on " in done.out
    assert contents(run) == whole
    (folder,) = (run / "evaluations").iterdir()
    assert json.loads((folder / "results.json").read_text())["measured"]["width"] == 16
