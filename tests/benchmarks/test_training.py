"""The trainings that are compared are of one model, by recipes that can be trained."""

from pathlib import Path

import pytest

from benchmarks.measure_training import SETUPS, VOCABULARY, model_of, recipe_of
from xmodal.assembly.recipe import Recipe


@pytest.mark.parametrize("name", SETUPS)
def test_both_sides_have_the_same_sizes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIP_TOKENIZER", str(tmp_path))
    recipe = Recipe.model_validate(recipe_of(SETUPS[name], tmp_path, 3, tmp_path))
    image, text = recipe.method.image, recipe.method.text
    theirs = model_of(SETUPS[name])
    vision, words = theirs["vision_cfg"], theirs["text_cfg"]
    assert (image.size, image.patch) == (vision["image_size"], vision["patch_size"])
    assert (image.layers, text.layers) == (vision["layers"], words["layers"])
    assert image.width == text.width == vision["width"] == words["width"]
    assert image.width == image.heads * vision["head_width"]
    assert (text.heads, text.context) == (words["heads"], words["context_length"])
    assert recipe.method.embedding == theirs["embed_dim"]
    assert words["vocab_size"] == VOCABULARY
