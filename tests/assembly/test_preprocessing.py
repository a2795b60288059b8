"""The preprocessing of a model is that of its evaluation, and its encoder takes mean and std."""

from collections.abc import Callable
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.test_transforms import photograph, png
from xmodal.assembly.data import evaluation_transform
from xmodal.assembly.recipe import Recipe
from xmodal.components.component import Component
from xmodal.errors import UserError
from xmodal.models.config import ImageEncoderConfig
from xmodal.models.encoder import Encoder
from xmodal.models.images.features import ImageFeaturesConfig
from xmodal.models.images.timm_model import TimmConfig

SETTINGS = {
    "mean": (0.1, 0.2, 0.3),
    "std": (0.5, 0.25, 0.2),
    "resize": "squash",
    "interpolation": "bilinear",
    "resizer": "pillow",
}
MakeRecipe = Callable[..., Recipe]


def image_of(**more: object) -> TimmConfig:
    return TimmConfig.model_validate({"kind": "timm", "name": "test_resnet", "size": 64} | more)


def test_the_square_and_the_normalisation_are_the_models(make_recipe: MakeRecipe) -> None:
    image = image_of(preprocessing=SETTINGS)
    recipe = make_recipe(method={"kind": "clip", "image": image, "text": {"kind": "transformer"}})
    pixels = photograph(50, 90)
    square = evaluation_transform(recipe)(png(pixels), np.random.default_rng(0))
    squashed = np.asarray(Image.fromarray(pixels).resize((64, 64), Image.Resampling.BILINEAR))
    assert (square.permute(1, 2, 0).numpy() == squashed).all()

    torch.manual_seed(0)
    ours = image.build().eval()
    torch.manual_seed(0)
    plain = image_of().build().eval()
    mean, std = (torch.tensor(SETTINGS[name])[:, None, None] for name in ("mean", "std"))
    normalised = (squashed / 255).transpose(2, 0, 1)[None]
    pixels_in = ((torch.tensor(normalised) - mean) / std).float()
    *_, wanted = plain.model(pixels_in)
    torch.testing.assert_close(ours(square[None]), wanted, rtol=1e-4, atol=1e-4)


def test_without_one_it_is_the_central_square_and_what_timm_has(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe()
    transform = evaluation_transform(recipe)
    assert transform.preprocessing.resize == "crop"
    assert {"mean", "std", "preprocessing"}.isdisjoint(recipe.method.image.arguments)


def test_an_encoder_that_takes_no_mean_refuses_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageEncoderConfig, "kinds", dict(ImageEncoderConfig.kinds))

    class Bare(Encoder):
        def __init__(self, *, size: int = 8) -> None:
            super().__init__()
            self.features = self.local_features = size

    class BareConfig(ImageEncoderConfig):
        kind: Literal["bare"] = "bare"
        size: int = 8
        builds: ClassVar[str | type] = Bare

    assert issubclass(BareConfig, Component)
    assert BareConfig(preprocessing={"resize": "squash"}).build().features == 8
    with pytest.raises(UserError, match="unexpected keyword argument 'mean'"):
        BareConfig(preprocessing={"mean": (0.5, 0.5, 0.5)}).build()


def test_features_have_no_preprocessing() -> None:
    with pytest.raises(ValueError, match="preprocessing"):
        ImageFeaturesConfig(features=8, preprocessing={"resize": "squash"})
