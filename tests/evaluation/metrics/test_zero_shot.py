"""Classification by names: cases by hand, scikit-learn's accuracies, templates."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score
from torch import Tensor

from tests.training_sets import TOKENIZER
from xmodal.data.batch import Batch
from xmodal.evaluation.embedding import class_prototypes
from xmodal.evaluation.metrics.classes import Classes
from xmodal.evaluation.metrics.similarity import Similarity
from xmodal.evaluation.metrics.zero_shot import class_ranks, zero_shot_metrics
from xmodal.methods.scores import dot_product

COSINE = Similarity(dot_product)


def classes(of_images: Tensor) -> Classes:
    return Classes([str(n) for n in range(of_images.shape[1])], of_images)


def measured(images: Tensor, of_images: Tensor, prototypes: Tensor) -> dict[str, float]:
    ranks = class_ranks(images, classes(of_images), prototypes, COSINE, 2048)
    metrics = zero_shot_metrics(ranks, classes(of_images), "z")
    assert all(name.startswith("z/") for name in metrics)
    return {name.removeprefix("z/"): value for name, value in metrics.items()}


def test_a_case_by_hand() -> None:
    # Six classes; scores are the images themselves.
    images = torch.tensor(
        [
            [6.0, 5.0, 4.0, 3.0, 2.0, 1.0],  # of class 0: right
            [6.0, 5.0, 4.0, 3.0, 2.0, 1.0],  # of class 1: second
            [6.0, 5.0, 4.0, 3.0, 2.0, 1.0],  # of class 5: last
            [1.0, 6.0, 6.0, 0.0, 0.0, 0.0],  # of class 1, and class 2 has the same score: second
            [0.0, 0.0, 0.0, 9.0, 8.0, 0.0],  # of classes 2, 3, 4: right
            [9.0, 0.0, 0.0, 0.0, 0.0, 0.0],  # of none
        ]
    )
    of_images = torch.zeros(6, 6, dtype=torch.bool)
    for image, labels in enumerate([[0], [1], [5], [1], [2, 3, 4], []]):
        of_images[image, labels] = True
    found = measured(images, of_images, torch.eye(6))
    assert found["top1"] == pytest.approx(100 * 2 / 5)
    assert found["top5"] == pytest.approx(100 * 4 / 5)
    assert found["mean_class_recall"] == pytest.approx(100 * (1 + 0 + 1 + 1 + 1 + 0) / 6)
    assert found["top1_chance"] == pytest.approx(100 * (4 * 1 / 6 + 3 / 6) / 5)
    assert found["top5_chance"] == pytest.approx(100 * (4 * 5 / 6 + 1) / 5)
    assert found["mean_class_recall_chance"] == pytest.approx(100 * (3 * 1 / 6 + 3 * 3 / 6) / 6)
    assert found["num_images"] == 5
    assert found["images_skipped"] == 1
    assert found["num_classes"] == 6


def test_of_one_class_an_image_it_is_what_scikit_learn_measures() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.cat([torch.arange(12), torch.randint(12, (500,), generator=generator) ** 2 % 12])
    images = torch.randn(512, 9, generator=generator)
    prototypes = torch.randn(12, 9, generator=generator)
    found = measured(images, F.one_hot(labels, 12) > 0, prototypes)
    scores = (images @ prototypes.T).numpy()
    for k in (1, 5):
        expected = top_k_accuracy_score(labels.numpy(), scores, k=k, labels=np.arange(12))
        assert found[f"top{k}"] == pytest.approx(100 * expected)
        assert found[f"top{k}_chance"] == pytest.approx(100 * k / 12)
    expected = balanced_accuracy_score(labels.numpy(), scores.argmax(1))
    assert found["mean_class_recall"] == pytest.approx(100 * expected)


def test_fewer_than_five_classes_are_all_among_the_first_five() -> None:
    found = measured(torch.eye(2), torch.eye(2) > 0, torch.eye(2).flip(0))
    assert [found["top1"], found["top5"], found["top5_chance"]] == [0, 100, 100]


def bag(tokens: Tensor, mask: Tensor) -> Tensor:
    """How often each token comes in each caption, (captions, vocabulary)."""
    return (F.one_hot(tokens, TOKENIZER.vocabulary) * mask[..., None]).sum(1).float()


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_a_class_is_the_mean_of_its_templates_of_length_one(batch_size: int) -> None:
    """With two senses, of each by itself."""

    def encode(batch: Batch) -> SimpleNamespace:
        counts = bag(batch.tokens, batch.token_mask)
        assert len(counts) <= batch_size
        return SimpleNamespace(texts=torch.stack([counts, 10 - counts], 1))

    names, templates = ["cat", "horse"], ["a {} 1", "{} or {}", "no {}"]
    found = class_prototypes(
        SimpleNamespace(encode=encode, scores_sets=False),
        names,
        templates,
        TOKENIZER,
        batch_size,
        torch.device("cpu"),
    )
    for name, senses in zip(names, found, strict=True):
        captions = [f"a {name} 1", f"{name} or {name}", f"no {name}"]
        counts = torch.cat([bag(*TOKENIZER([caption])) for caption in captions])
        torch.testing.assert_close(senses[0], F.normalize(counts.mean(0), dim=0))
        torch.testing.assert_close(senses[1], F.normalize((10 - counts).mean(0), dim=0))
