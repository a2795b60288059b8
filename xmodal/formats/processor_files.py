"""Files by which the transformers library prepares images and texts."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm.data.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from xmodal.data.preprocessing import Interpolation, PreprocessingConfig, ResizeMode
from xmodal.errors import UserError
from xmodal.formats.tokenizer_files import write_json
from xmodal.models.config import ImageEncoderConfig
from xmodal.small_files import read_small

# By Pillow's numbers.
_INTERPOLATIONS: dict[int, Interpolation] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}


def read_preprocessing(folder: Path, size: int) -> PreprocessingConfig:
    """Return how a folder's processor makes images the squares of `size` that its model reads.

    Raises `UserError` where there is none, or it works as xmodal does not.
    """
    settings = _settings(folder)
    try:
        return PreprocessingConfig(
            mean=settings["image_mean"],
            std=settings["image_std"],
            interpolation=_INTERPOLATIONS[settings.get("resample", 3)],
            resize=_resize_mode(settings, size),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder}: its preprocessor_config.json prepares images as xmodal does not "
            f"({type(error).__name__}: {error})"
        ) from None


def write_preprocessing(
    image: ImageEncoderConfig, processor: str, folder: Path, *, alone: bool = False
) -> None:
    """Write how images are prepared, for a processor of transformers (`CLIP`, `Siglip`), or for a
    tower of images alone.

    A model that crops before it resizes is written as one that resizes before it crops: they differ
    by less than a pixel. Raises `UserError` for one that fills what images lack of a square.
    """
    ours = image.preprocessing or PreprocessingConfig()
    if ours.resize == "longest":
        raise UserError(
            "the format of transformers cannot express method.image.preprocessing.resize: longest; "
            "export to another format"
        )
    square = {"height": image.size, "width": image.size}
    squashes = ours.resize == "squash"
    settings = {
        "image_processor_type": f"{processor}ImageProcessor",
        "image_mean": ours.mean or OPENAI_CLIP_MEAN,
        "image_std": ours.std or OPENAI_CLIP_STD,
        "resample": next(
            code for code, name in _INTERPOLATIONS.items() if name == ours.interpolation
        ),
        "size": square if squashes else {"shortest_edge": image.size},
        **({} if squashes else {"crop_size": square}),
        "do_center_crop": not squashes,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "rescale_factor": 1 / 255,
    }
    if alone:
        write_json(folder / "preprocessor_config.json", settings)
        return
    name = {"processor_class": f"{processor}Processor"}
    # Today's file, and that of versions before 5, which servers have.
    write_json(folder / "processor_config.json", name | {"image_processor": settings})
    write_json(folder / "preprocessor_config.json", settings | name)


def _settings(folder: Path) -> Mapping[str, Any]:
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            settings = json.loads(read_small(folder / name))
            found = settings.get("image_processor", settings)
            if "image_mean" in found:
                return found
    raise UserError(
        f"{folder} has no preprocessor_config.json, which says how images are resized and "
        "normalised; copy it from the model that this was trained from"
    )


def _resize_mode(settings: Mapping[str, Any], size: int) -> ResizeMode:
    target, crop = settings.get("size", size), settings.get("crop_size", size)
    crops = settings.get("do_center_crop", "crop_size" in settings)
    square = {"height": size, "width": size}
    if not settings.get("do_resize", True):
        raise ValueError("do_resize is false")
    if target in (square, size) and not isinstance(target, int):
        return "squash"
    if target in ({"shortest_edge": size}, size) and crops and crop in (square, size):
        return "shortest"
    raise ValueError(f"size {target}, crop_size {crop if crops else None} of a model of {size}")
