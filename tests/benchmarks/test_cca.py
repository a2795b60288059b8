"""CCA as two heads."""

import numpy as np
from scipy.linalg import eigh

from benchmarks.cca import Features, correlate


def test_cca_finds_the_directions_of_greatest_correlation() -> None:
    """Beside the generalised eigenproblem of the two blocks, which is another way to the same."""
    random = np.random.default_rng(0)
    shared = random.normal(size=(300, 3))
    images = shared @ random.normal(size=(3, 6)) + random.normal(size=(300, 6))
    texts = shared @ random.normal(size=(3, 5)) + random.normal(size=(300, 5))
    found = correlate(Features(images, texts, np.arange(300)), penalty=0.1)
    x, y = images - images.mean(0), texts - texts.mean(0)
    xx, yy, xy = x.T @ x / 300, y.T @ y / 300, x.T @ y / 300
    xx += 0.1 * np.trace(xx) / 6 * np.eye(6)
    yy += 0.1 * np.trace(yy) / 5 * np.eye(5)
    cross = np.block([[np.zeros((6, 6)), xy], [xy.T, np.zeros((5, 5))]])
    spread = np.block([[xx, np.zeros((6, 5))], [np.zeros((5, 6)), yy]])
    expected = eigh(cross, spread, eigvals_only=True)[::-1][:5]
    np.testing.assert_allclose(found.correlations, expected, atol=1e-10)
    np.testing.assert_allclose(found.images.T @ xx @ found.images, np.eye(5), atol=1e-10)
    np.testing.assert_allclose(
        found.images.T @ xy @ found.texts, np.diag(found.correlations), atol=1e-10
    )


def test_an_image_counts_with_each_of_its_texts() -> None:
    random = np.random.default_rng(1)
    images, texts = random.normal(size=(40, 3)), random.normal(size=(80, 4))
    owners = np.repeat(np.arange(40), 2)
    repeated = correlate(Features(images[owners], texts, np.arange(80)), penalty=0.1)
    found = correlate(Features(images, texts, owners), penalty=0.1)
    np.testing.assert_allclose(found.correlations, repeated.correlations)
