"""A batch of a recipe as its loader would make it, without values."""

from typing import Any

import torch
from torch import Tensor

from xmodal.assembly.recipe import Recipe
from xmodal.data.batch import Batch, BatchSpec
from xmodal.data.sample_spec import SampleSpec

# Positions of features of an image and of a text where no shard says how many: regions of
# bottom-up attention, and about the words of a caption.
POSITIONS = {"image": 36, "text": 16}


def expected_samples(recipe: Recipe, *, local: bool) -> SampleSpec:
    """Return what samples of shards that are not at hand hold, as far as the recipe says."""

    def shape(side: str) -> tuple[int, ...] | None:
        encoder = getattr(recipe.method, side)
        if encoder is None or not encoder.reads_features:
            return None
        return (POSITIONS[side], encoder.features) if local else (encoder.features,)

    return SampleSpec(shape("image"), shape("text"))


def example_batch(recipe: Recipe, contents: BatchSpec, spec: SampleSpec, rows: int) -> Batch:
    """Return a batch of so many samples, its captions as long as the context."""
    tensors: dict[str, Any] = {
        **_images(recipe, contents, spec, rows),
        **_texts(recipe, contents, spec, rows),
        **_extra(recipe, spec, rows),
        "image_ids": torch.zeros(rows, dtype=torch.int64),
    }
    for name in ("teacher_images", "teacher_texts") if contents.teacher else ():
        tensors[name] = torch.zeros(rows, contents.teacher)
    if contents.labels:
        tensors["labels"] = torch.zeros(rows, dtype=torch.int64)
    if contents.numbers:
        tensors["sample_numbers"] = torch.zeros(rows, dtype=torch.int64)
    if contents.composed:
        tensors["source_ids"] = torch.zeros(rows, dtype=torch.int64)
    if recipe.data.text_dropout:
        tensors["text_dropped"] = torch.zeros(rows, contents.views, dtype=torch.bool)
    return Batch(**tensors)


def _images(recipe: Recipe, contents: BatchSpec, spec: SampleSpec, rows: int) -> dict[str, Tensor]:
    if spec.image is not None:
        names = ["image_features", *(["target_features"] if contents.composed else [])]
        found = {name: torch.zeros(rows, *spec.image) for name in names}
        lower = {} if spec.lower is None else {"target_lower": torch.zeros(rows, *spec.lower)}
        return found | lower
    size = recipe.method.image.size
    views = ["images", "targets" if contents.composed else "second_images"]
    # Channels last, as the loader decodes them.
    return {
        name: torch.zeros(rows, size, size, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
        for name in views[: 2 if contents.composed else contents.views]
    }


def _texts(recipe: Recipe, contents: BatchSpec, spec: SampleSpec, rows: int) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for prefix in ("", "second_")[: contents.captions]:
        if spec.text is not None:
            found[f"{prefix}text_features"] = torch.zeros(rows, *spec.text)
        elif recipe.method.text is not None:
            length = recipe.method.text.context
            found[f"{prefix}tokens"] = torch.zeros(rows, length, dtype=torch.int64)
            found[f"{prefix}token_mask"] = torch.ones(rows, length, dtype=torch.bool)
    return found


def _extra(recipe: Recipe, spec: SampleSpec, rows: int) -> dict[str, Tensor]:
    negatives, text = recipe.data.negatives, recipe.method.text
    found: dict[str, Tensor] = {}
    if negatives and (count := negatives.texts + negatives.mined_texts):
        found |= {
            "extra_tokens": torch.zeros(rows, count, text.context, dtype=torch.int64),
            "extra_token_mask": torch.ones(rows, count, text.context, dtype=torch.bool),
            "extra_text_ids": torch.zeros(rows, count, dtype=torch.int64),
            "extra_text_origins": torch.zeros(rows, count, dtype=torch.int64),
            "text_ids": torch.zeros(rows, dtype=torch.int64),
        }
    if negatives and (count := negatives.mined_images):
        found["extra_image_ids"] = torch.zeros(rows, count, dtype=torch.int64)
        if spec.image is not None:
            return found | {"extra_image_features": torch.zeros(rows, count, *spec.image)}
        size = recipe.method.image.size
        pixels = torch.zeros(rows, count, size, size, 3, dtype=torch.uint8)
        found["extra_images"] = pixels.permute(0, 1, 4, 2, 3)
    return found
