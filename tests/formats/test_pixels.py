"""Pixels are within 0.02 standard deviations of what the models' own libraries make of an image."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.data.test_transforms import photograph
from tests.formats.reference_libraries import References
from xmodal.data.decode import open_image
from xmodal.data.preprocessing import PreprocessingConfig
from xmodal.data.transforms import ImageTransform

BOUND = 0.02  # standard deviations; a difference of one grey level is 0.015
# Height and width: portrait and landscape, odd and even, small, of the size, of any odd margin.
SIDES = [(64, 48), (48, 64), (97, 61), (61, 97), (32, 32), (45, 45), (20, 33), (33, 20), (50, 35)]
SIDES += [(80, side) for side in range(81, 97, 3)] + [(7, 90), (90, 7), (46, 45), (45, 47)]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images of every kind."""
    folder = tmp_path_factory.mktemp("images")
    for height, width in SIDES:
        Image.fromarray(photograph(height, width)).save(folder / f"{height}x{width}.png")
    pixels = photograph(71, 52, scales=(9, 27))
    Image.fromarray(pixels).save(folder / "photo.jpg", quality=90)
    Image.fromarray(pixels[..., 0]).save(folder / "grey.jpg")
    Image.fromarray(pixels[..., 0]).save(folder / "grey.png")
    alpha = np.linspace(0, 255, 71 * 52).reshape(71, 52, 1).astype(np.uint8)
    Image.fromarray(np.concatenate([pixels, alpha], 2)).save(folder / "alpha.png")
    opaque = np.full_like(alpha, 255)
    Image.fromarray(np.concatenate([pixels, opaque], 2)).save(folder / "opaque.png")
    for orientation in (3, 6, 8):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(pixels).save(folder / f"turned{orientation}.jpg", exif=exif)
    return folder


@pytest.fixture(scope="module")
def wanted(images: Path, references: References) -> Mapping[str, Tensor]:
    """Pixels that the libraries give, by transform, image and size."""
    return references.tensors("pixels", images)


def preprocessing_of(transform: str) -> PreprocessingConfig:
    """Return our settings of a library's transform."""
    library, mode, interpolation = transform.split("-")
    return PreprocessingConfig(
        mean=(0.5, 0.5, 0.5) if library == "siglip" else (0.48145466, 0.4578275, 0.40821073),
        std=(0.5, 0.5, 0.5) if library == "siglip" else (0.26862954, 0.26130258, 0.27577711),
        resize=mode,
        interpolation=interpolation,
        resizer="pillow" if library == "open_clip" else "torch",
        fill=99,
    )


def made_by_us(path: Path, size: int, settings: PreprocessingConfig) -> Tensor:
    """Return an image as the encoder normalises it, (3, size, size)."""
    transform = ImageTransform(size, preprocessing=settings)
    square = transform(open_image(path.read_bytes()), np.random.default_rng(0))
    mean, std = (torch.tensor(one)[:, None, None] for one in (settings.mean, settings.std))
    return (square / 255 - mean) / std


def test_pixels_are_the_librarys(wanted: Mapping[str, Tensor], images: Path) -> None:
    distances = {}
    for name, theirs in wanted.items():
        transform, image, size = name.split("/")
        ours = made_by_us(images / image, int(size), preprocessing_of(transform))
        distances[name] = float((ours - theirs).abs().max())
    assert len(distances) == 2 * 15 * len(list(images.iterdir()))
    far = {name: distance for name, distance in distances.items() if not distance < BOUND}
    assert not far
    assert max(distances.values()) < 1e-5  # the same arithmetic as theirs, to a float's last bits


def test_the_other_librarys_arithmetic_is_noticed(
    wanted: Mapping[str, Tensor], images: Path
) -> None:
    name = "clip-shortest-bicubic"
    settings = preprocessing_of(name).model_copy(update={"resizer": "pillow"})
    distances = {
        image.name: float((made_by_us(image, 45, settings) - theirs).abs().max())
        for image in images.iterdir()
        for theirs in [wanted[f"{name}/{image.name}/45"]]
    }
    assert max(distances.values()) > 5 * BOUND
