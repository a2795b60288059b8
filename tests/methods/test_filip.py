"""FILIP: what its sets of vectors hold, and their scores; its loss is in test_equivalence.py."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.methods.test_clip import IMAGE, TEXT
from xmodal.data.batch import Batch
from xmodal.errors import UserError
from xmodal.evaluation.embedding import class_prototypes
from xmodal.methods.filip import Filip, FilipConfig
from xmodal.methods.set_scores import MeanOfBest, mean_of_best

DIM, WORDS = 8, 7


@pytest.fixture
def method() -> Filip:
    torch.manual_seed(0)
    built: Filip = FilipConfig(image=IMAGE, text=TEXT, embedding=DIM, words=WORDS).build(
        vocabulary=40
    )
    return built


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(6, 5, dtype=torch.bool)
    mask[2:, 3:] = False
    return Batch(
        images=torch.randint(0, 256, (6, 3, 64, 64), generator=generator, dtype=torch.uint8),
        tokens=torch.randint(0, 40, (6, 5), generator=generator),
        token_mask=mask,
        image_ids=torch.arange(6),
    )


def sets(items: int, length: int, seed: int) -> Tensor:
    """Sets of unit vectors with up to `length`, of which padding is zero."""
    generator = torch.Generator().manual_seed(seed)
    vectors = F.normalize(torch.randn(items, length, DIM, generator=generator), dim=2)
    lengths = torch.randint(1, length + 1, (items, 1), generator=generator)
    return vectors * (torch.arange(length) < lengths)[..., None]


def naive(x: Tensor, y: Tensor) -> Tensor:
    """The score of two sets, without their padding."""
    x, y = (side.double()[side.any(1)] for side in (x, y))
    products = x @ y.T
    return (products.amax(1).mean() + products.amax(0).mean()) / 2


def test_parts_are_vectors_of_length_1_and_padding_is_zero(method: Filip, batch: Batch) -> None:
    found = method.encode(batch)
    assert found.images.shape == (6, 4, DIM)  # positions of a map of 2 × 2
    assert found.texts.shape == (6, WORDS, DIM)
    assert found.texts.any(2).sum(1).tolist() == [5, 5, 3, 3, 3, 3]
    lengths = found.texts.norm(dim=2)[found.texts.any(2)]
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


def test_the_loss_reaches_every_weight(method: Filip, batch: Batch) -> None:
    method.objective(method.encode(batch))["contrastive"].backward()
    head = [p.grad for name, p in method.named_parameters() if "head" in name or "loss" in name]
    assert len(head) == 3
    assert all(gradient is not None and gradient.any() for gradient in head)
    assert method.monitors.keys() == {"temperature"}


def test_captions_of_other_lengths_make_sets_of_one_length(method: Filip, batch: Batch) -> None:
    method.eval()
    whole = method.encode(batch)
    short = method.encode(
        batch.rows(torch.arange(2, 6)).with_texts(
            Batch(tokens=batch.tokens[2:, :3], token_mask=batch.token_mask[2:, :3])
        )
    )
    torch.testing.assert_close(short.texts, whole.texts[2:])
    method.words = 2
    assert torch.equal(method.encode(batch).texts, whole.texts[:, :2])


def test_scores_are_the_mean_of_both_directions() -> None:
    x, y = sets(9, 6, seed=1), sets(11, 4, seed=2)
    expected = torch.stack([torch.stack([naive(a, b) for b in y]) for a in x])
    torch.testing.assert_close(mean_of_best.exact(x, y), expected, rtol=0, atol=1e-11)
    fast = mean_of_best(x, y)
    assert (fast.double() - mean_of_best.exact(x, y)).abs().max() <= mean_of_best.error(x, y) < 1e-4
    assert torch.equal(mean_of_best.swapped().exact(y, x), mean_of_best.exact(x, y).T)


def test_exact_scores_depend_on_two_items_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = sets(9, 6, seed=1), sets(11, 4, seed=2)
    expected = mean_of_best.exact(x, y)
    i, j = torch.tensor([0, 3, 8]), torch.tensor([10, 0, 5])
    assert torch.equal(MeanOfBest().chosen(x, y, i, j), expected[i, j])
    assert torch.equal(mean_of_best.exact(F.pad(x, (0, 0, 0, 3)), y), expected)
    assert torch.equal(mean_of_best.exact(x.flip(0), y[2:]), expected.flip(0)[:, 2:])
    monkeypatch.setattr("xmodal.methods.set_scores.PRODUCTS", 50)
    assert torch.equal(mean_of_best.exact(x, y), expected)


def test_a_score_that_is_not_a_number_stays_so() -> None:
    x, y = sets(3, 4, seed=1), sets(3, 4, seed=2)
    x[1, 0, 0] = torch.nan
    for scores in (mean_of_best(x, y), mean_of_best.exact(x, y)):
        assert scores.isnan().any(1).tolist() == [False, True, False]


def test_several_templates_are_refused(method: Filip) -> None:
    with pytest.raises(UserError, match="2 templates: Filip matches the words of a caption"):
        class_prototypes(method, ["a"], ["{}", "no {}"], None, 8, torch.device("cpu"))  # type: ignore[arg-type]
