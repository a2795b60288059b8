"""Small grey pictures: copies correlate, other images do not."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.search.curation.sets import scenes
from xmodal.data.decode import BadSample
from xmodal.search.curation.alike import CORRELATION
from xmodal.search.curation.pictures import correlations, grey_picture


def photograph(seed: int) -> Image.Image:
    """A picture with coarse and fine structure."""
    rng = np.random.default_rng(seed)
    layers = [rng.normal(size=(n, n, 3)) * 40 / n**0.5 for n in (4, 8, 16, 32)]
    images = [
        [Image.fromarray(layer[:, :, c].astype(np.float32)).resize((200, 150), 3) for c in range(3)]
        for layer in layers
    ]
    pixels = sum(np.stack([np.asarray(channel) for channel in image], -1) for image in images)
    return Image.fromarray(np.clip(pixels + 128, 0, 255).astype(np.uint8))


def jpeg(image: Image.Image, quality: int = 85) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def compare(a: bytes, b: bytes) -> tuple[float, bool]:
    pictures = [grey_picture(data)[None] for data in (a, b)]
    best, mirrored = correlations(*pictures)
    back, _ = correlations(*reversed(pictures))
    assert best[0] == pytest.approx(back[0], abs=1e-5)
    return float(best[0]), bool(mirrored[0])


@pytest.mark.parametrize("seed", range(4))
def test_copies_correlate(seed: int) -> None:
    image = photograph(seed)
    original = jpeg(image)
    assert compare(original, original)[0] == pytest.approx(1, abs=1e-5)
    assert compare(original, jpeg(image, 30))[0] > CORRELATION
    assert compare(original, jpeg(image.resize((97, 80)))) > (CORRELATION, False)
    for left, top in ((0, 0), (10, 7), (6, 1)):
        cropped = image.crop((left, top, left + 190, top + 142))
        assert compare(original, jpeg(cropped)) > (CORRELATION, False)
        found, mirrored = compare(original, jpeg(ImageOps.mirror(cropped)))
        assert found > CORRELATION
        assert mirrored


def test_other_images_do_not() -> None:
    images = [jpeg(photograph(seed)) for seed in range(6)] + scenes(6)
    for n, a in enumerate(images):
        assert all(compare(a, b)[0] < CORRELATION for b in images[:n])


def test_a_bright_sky_is_like_no_other() -> None:
    """Coarse light and shade alone, as of snow or fog, make no duplicate."""
    sky = 80 + 120 / (1 + np.exp(np.arange(-32, 32) / 4))[:, None]
    details = np.random.default_rng(0).normal(size=(2, 16, 16)).repeat(4, 1).repeat(4, 2) * 6
    a, b = ((sky + one).astype(np.uint8)[None] for one in details)
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.96
    assert correlations(a, b)[0][0] < 0.6
    assert correlations(a, a)[0][0] == pytest.approx(1, abs=1e-5)


def test_the_smallest_and_the_plainest_images() -> None:
    white = jpeg(Image.new("RGB", (3, 5), "white"))
    assert grey_picture(white).shape == (64, 64)
    assert compare(white, white)[0] < 0.1
    with pytest.raises(BadSample):
        grey_picture(b"nothing")
