"""Whole evaluations of classification, on shards as CLIP_benchmark writes them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import top_k_accuracy_score

from tests.evaluation.test_retrieval import DIM, Bags, of_views
from tests.shard_sets import write_shards
from tests.training_sets import TOKENIZER, npy
from xmodal.data.batch import Batch
from xmodal.data.class_files import NAMES, TEMPLATES
from xmodal.errors import UserError

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
