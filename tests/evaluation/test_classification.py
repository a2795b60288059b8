"""Whole evaluations of classification, on shards as CLIP_benchmark writes them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import top_k_accuracy_score

from tests.evaluation.test_retrieval import (
    CPU,
    DIM,
    Alike,
    AlikeWithoutTexts,
    Bags,
    TwoSenses,
    of_views,
)
from tests.processes import on_ranks
from tests.shard_sets import write_shards
from tests.training_sets import TOKENIZER, npy
from xmodal.data.batch import Batch
from xmodal.data.class_files import NAMES, TEMPLATES
from xmodal.data.manifest import read_manifest
from xmodal.data.transforms import ImageTransform
from xmodal.errors import UserError
from xmodal.evaluation.config import EvaluationConfig
from xmodal.evaluation.metrics.linear_probe import linear_probe
from xmodal.evaluation.protocols.registry import metric_names
from xmodal.evaluation.report.run_report import print_results, write_report
from xmodal.evaluation.retrieval import evaluate_retrieval, images_to_fit_on, sets_to_measure
from xmodal.methods.method import Method

CLASSES = ["red", "green", "blue", "grey", "pink", "teal", "mauve"]  # three of no image
TEXTS = ["a {c} 1", "{c} or {c}", "no {c}"]
COUNT = 60


def class_of(number: int) -> int:
    return number**2 % 6


def features(seed: int, count: int) -> np.ndarray:
    """Return features (count, DIM) float32 that tell some of the classes."""
    noise = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    return noise + 2 * np.eye(DIM, dtype="f4")[[class_of(n) for n in range(count)]]


def write_split(
    folder: Path, count: int = COUNT, *, labels: Sequence[str] | None = None, seed: int = 0
) -> None:
    """Write images of four classes, as `.cls`."""
    samples = {
        f"s{n:07d}": {
            "image.npy": npy(image),
            "cls": (str(class_of(n)) if labels is None else labels[class_of(n)]).encode(),
        }
        for n, image in enumerate(features(seed, count))
    }
    names = list(samples)
    write_shards(folder, [{k: samples[k] for k in part} for part in (names[:25], names[25:])])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_split(tmp_path / "test")
    (tmp_path / NAMES).write_text("\n".join(CLASSES) + "\n")
    (tmp_path / TEMPLATES).write_text("\n".join(TEXTS) + "\n")
    return tmp_path


def naive_scores(seed: int = 0, count: int = COUNT) -> np.ndarray:
    """Return the cosine of each image with the mean of its class's captions, all in float64."""
    images = features(seed, count).astype(np.float64)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    method, classes = Bags().double(), []
    for name in CLASSES:
        vectors = []
        for text in TEXTS:
            tokens, mask = TOKENIZER([text.replace("{c}", name)])
            vectors.append(method.encode(Batch(tokens=tokens, token_mask=mask)).texts[0].numpy())
        mean = np.mean(vectors, 0)
        classes.append(mean / np.linalg.norm(mean))
    return images @ np.stack(classes).T


def test_zero_shot_of_names_and_templates_beside_the_shards(folder: Path) -> None:
    found = of_views(Bags(), folder / "test", "zero-shot").metrics
    scores, truth = naive_scores(), np.array([class_of(n) for n in range(COUNT)])
    for k in (1, 5):
        expected = top_k_accuracy_score(truth, scores, k=k, labels=np.arange(len(CLASSES)))
        assert found[f"zero-shot/top{k}"] == pytest.approx(100 * expected, abs=1e-9)
        assert found[f"zero-shot/top{k}_chance"] == pytest.approx(100 * k / len(CLASSES))
    expected = np.mean([(scores.argmax(1) == c)[truth == c].mean() for c in set(truth.tolist())])
    assert found["zero-shot/mean_class_recall"] == pytest.approx(100 * expected, abs=1e-9)
    counts = {"num_images": COUNT, "num_classes": len(CLASSES), "num_templates": len(TEXTS)}
    assert {name: found[f"zero-shot/{name}"] for name in counts} == counts


def test_labels_may_be_names_and_json(folder: Path) -> None:
    expected = of_views(Bags(), folder / "test", "zero-shot").metrics
    write_split(folder / "named", labels=CLASSES)
    assert of_views(Bags(), folder / "named", "zero-shot").metrics == expected


def test_sets_without_captions_are_measured_by_classes_alone(folder: Path) -> None:
    method = Bags()
    found = of_views(method, folder / "test", "zero-shot", "visual")
    assert method.encoded == COUNT + len(CLASSES) * len(TEXTS)
    assert {name.split("/")[0] for name in found.metrics} == {"zero-shot", "visual"}
    for names in ((), ("class",), ("zero-shot", "gap")):
        with pytest.raises(UserError, match="test has classes and no captions, which"):
            of_views(Bags(), folder / "test", *names)


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (None, "the classes of URL are numbers, which say nothing to zero-shot: write classnames"),
        ("red\ngreen\n", "URL has the label {3,4}, which classnames.txt beside it does not have: "),
    ],
)
def test_names_that_do_not_fit_are_one_line(names: str | None, line: str, folder: Path) -> None:
    (folder / NAMES).unlink() if names is None else (folder / NAMES).write_text(names)
    method = Bags()
    with pytest.raises(UserError) as error:
        of_views(method, folder / "test", "zero-shot")
    said = str(error.value)
    assert any(
        said.startswith(line.replace("{3,4}", label).replace("URL", f"{folder}/test"))
        for label in "345"
    )
    assert not method.encoded


PROBES = ("linear-probe", "knn")


def fitted(test: Path, train: Path, *names: str, method: Method | None = None) -> dict[str, float]:
    """Return the metrics of protocols that are fitted on a training split."""
    transform, method = ImageTransform(8), method or Bags()
    sets = sets_to_measure(method.contents, read_manifest(test), None, transform, TOKENIZER)
    return evaluate_retrieval(
        method,
        sets[0],
        None,
        EvaluationConfig(batch_size=7),
        probe_train=images_to_fit_on(read_manifest(train), transform, TOKENIZER),
        protocols=names or PROBES,
        device=CPU,
        workers=0,
        max_bad_share=0.0,
    ).metrics


@pytest.fixture
def train(folder: Path) -> Path:
    write_split(folder / "train", 150, seed=1)
    return folder / "train"


def test_probes_are_those_of_the_embeddings_alone(folder: Path, train: Path) -> None:
    found = fitted(folder / "test", train)
    sides = [features(seed, count).astype(np.float64) for seed, count in ((1, 150), (0, COUNT))]
    rows, queries = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in sides)
    classes, truth = (np.array([class_of(n) for n in range(count)]) for count in (150, COUNT))
    names = np.unique(classes)
    scores, c = linear_probe(rows, classes[:, None] == names, queries)
    assert found["linear-probe/C"] == pytest.approx(c)
    for k in (1, 5):
        near = names[np.argsort(-scores, 1)[:, :k]]
        expected = (near == truth[:, None]).any(1).mean()
        assert found[f"linear-probe/top{k}"] == pytest.approx(100 * expected)
    for one in ("linear-probe/top1", "knn/accuracy@5"):
        assert found[f"{one}_chance"] == pytest.approx(25)
    near = np.argsort(-queries @ rows.T, 1)
    for k in (1, 5, 20):
        weights = np.exp(np.take_along_axis(queries @ rows.T, near[:, :k], 1) / 0.07)
        votes = [((classes[near[:, :k]] == one) * weights).sum(1) for one in names]
        expected = (names[np.argmax(votes, 0)] == truth).mean()
        assert found[f"knn/accuracy@{k}"] == pytest.approx(100 * expected)
    for one in PROBES:
        assert found[f"{one}/num_train_images"] == 150
        assert found[f"{one}/num_train_images_removed"] == found[f"{one}/images_skipped"] == 0


def test_measured_images_are_not_fitted_on(folder: Path) -> None:
    """The training split has the measured images under other keys, and 150 others."""
    write_split(folder / "others", 150, seed=1)
    write_split(folder / "more" / "copies")
    both = f"{{{folder}/others,{folder}/more/copies}}"
    alone = fitted(folder / "test", folder / "others")
    found = fitted(folder / "test", both)
    removed = {f"{one}/num_train_images_removed" for one in PROBES}
    assert {name for name in found if found[name] != pytest.approx(alone[name])} == removed
    assert {found[name] for name in removed} == {COUNT}


@pytest.mark.parametrize(
    ("labels", "line"),
    [
        (None, "no image of TRAIN can be fitted on: each lacks a class or is in TEST too; name"),
        ("abcdef", "TEST and TRAIN have no class in common ('0' and others there, 'a' and others"),
        ("012356", "1 of 4 classes of TEST have no image in TRAIN, the first '4'; name shards of"),
        ("019999", "2 of 4 classes of TEST have no image in TRAIN, the first '3'; name shards of"),
        ("      ", "TRAIN has no labels in its samples' JSON or .cls, which PROBE is measured by"),
    ],
)
def test_splits_that_do_not_fit_are_one_line(labels: str | None, line: str, folder: Path) -> None:
    train = folder / "train"
    write_split(train, labels=labels and list(labels), seed=0 if labels is None else 1)
    for one in PROBES:
        with pytest.raises(UserError) as error:
            fitted(folder / "test", train, one)
        expected = line.replace("TRAIN", str(train)).replace("TEST", str(folder / "test"))
        assert str(error.value).startswith(expected.replace("PROBE", one))


@pytest.mark.parametrize("kind", [Alike, AlikeWithoutTexts])
def test_methods_of_views_have_the_same_images(
    kind: type[Method], folder: Path, train: Path
) -> None:
    found = fitted(folder / "test", train, method=kind())
    assert found == fitted(folder / "test", train)


def test_several_embeddings_an_image_are_one_line(folder: Path, train: Path) -> None:
    with pytest.raises(UserError, match="knn compares one embedding of an image with one of anoth"):
        fitted(folder / "test", train, "knn", method=TwoSenses())


def test_one_class_is_one_line(folder: Path) -> None:
    for name, seed in (("test", 0), ("train", 1)):
        write_split(folder / "one" / name, labels=["a"] * 6, seed=seed)
    with pytest.raises(UserError, match=r"all images of .*/train are of one class; name shards of"):
        fitted(folder / "one" / "test", folder / "one" / "train", "linear-probe")


@pytest.mark.slow
def test_ranks_get_the_same(folder: Path, train: Path) -> None:
    first, second = on_ranks(2, fitted, folder / "test", train)
    assert first == second == pytest.approx(fitted(folder / "test", train))


def test_probes_are_shown(
    folder: Path, train: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = fitted(folder / "test", train)
    assert set(metric_names(PROBES, Bags())) < found.keys()
    print_results(found, tmp_path)
    said = capsys.readouterr().out
    assert f"linear-probe: {COUNT} images, fitted on 150, 4 classes" in said
    assert f"C = {found['linear-probe/C']:.3g}" in said
    assert "is tried" not in said
    for c, end in ((1e6, "largest"), (1e-6, "smallest")):
        print_results(found | {"linear-probe/C": c}, tmp_path)
        hint = f"C = {c:.3g}, the {end} that is tried: another may be better"
        assert hint in capsys.readouterr().out
    assert "20-NN" in said
    page = write_report(tmp_path, "run", found, [], [], "").read_text()
    assert f"{COUNT} images, fitted on 150, 4 classes · C = " in page
    assert "5-NN, %" in page
