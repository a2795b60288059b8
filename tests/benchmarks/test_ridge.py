"""The ridge regression that trained methods of composed retrieval stand beside."""

import numpy as np
import torch
from sklearn.linear_model import Ridge

from benchmarks.ridge import Features, a_tenth, fit, recall, regress, set_regression
from xmodal.data.batch import Batch
from xmodal.methods.tirg import Tirg, TirgConfig

IMAGE, TEXT = 12, 6


def method() -> Tirg:
    sides = {
        "image": {"kind": "features", "features": IMAGE},
        "text": {"kind": "features", "features": TEXT},
    }
    return TirgConfig(**sides).build(vocabulary=0)


def changes(count: int, seed: int) -> Features:
    """Queries of one world: a text moves the image by what it says, and images lie off centre."""
    fixed = torch.Generator().manual_seed(9)
    moves, centre = torch.randn(TEXT, IMAGE, generator=fixed), torch.randn(IMAGE, generator=fixed)
    generator = torch.Generator().manual_seed(seed)
    sources = torch.randn(count, IMAGE, generator=generator) + 3 * centre
    texts = torch.eye(TEXT)[torch.randint(0, TEXT, (count,), generator=generator)]
    return Features(
        sources, texts, sources + 3 * texts @ moves, np.arange(2 * count).reshape(2, -1).T
    )


def test_the_weights_are_those_of_ridge_regression() -> None:
    inputs, outputs = (torch.randn(40, width, dtype=torch.float64) for width in (5, 3))
    spread = inputs.square().sum() / 40 / 5
    expected = Ridge(alpha=0.3 * 40 * spread.item(), fit_intercept=False).fit(inputs, outputs)
    torch.testing.assert_close(regress(inputs, outputs, 0.3), torch.from_numpy(expected.coef_))


def test_as_a_method_it_predicts_what_it_was_fitted_to() -> None:
    features, ours = changes(200, 0), method()
    set_regression(ours, features, 1e-6)
    x, y = (
        torch.nn.functional.normalize(side, dim=1) for side in (features.sources, features.targets)
    )
    mean = torch.cat([x, y]).mean(0)
    inputs = torch.cat([x - mean, features.texts - features.texts.mean(0)], 1)
    predicted = inputs @ torch.linalg.lstsq(inputs, y - mean).solution
    found = ours.encode(
        Batch(image_features=features.sources, text_features=features.texts,
              target_features=features.targets)
    )  # fmt: skip
    unit = torch.nn.functional.normalize
    torch.testing.assert_close(found.queries, unit(predicted, dim=1), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.targets, unit(y - mean, dim=1), rtol=1e-4, atol=1e-5)


def test_it_finds_targets_that_neither_side_finds_alone() -> None:
    ours, unseen = method(), changes(60, 1)
    fit(ours, changes(500, 0))
    both = recall(ours, unseen)
    alone = [
        recall(ours, unseen._replace(**{side: torch.zeros_like(getattr(unseen, side))}))
        for side in ("sources", "texts")
    ]
    assert both > 0.8
    assert max(alone) < 0.5


def test_what_is_held_out_shares_no_image_with_the_rest() -> None:
    random = np.random.default_rng(0)
    ids = np.sort(random.integers(0, 4, (300, 2)), 1) + 4 * random.integers(0, 50, 300)[:, None]
    held_out = a_tenth(ids)
    assert 15 <= held_out.sum() <= 60
    assert not set(ids[held_out].ravel()) & set(ids[~held_out].ravel())


def test_the_source_itself_is_no_answer() -> None:
    """Where nothing changes, a query is its own source, and finds the nearest other image."""
    ours, features = method(), changes(50, 0)
    set_regression(ours, features._replace(targets=features.sources), 1e-6)
    near = features._replace(targets=features.sources + 1e-3)
    assert recall(ours, near) > 0.9
