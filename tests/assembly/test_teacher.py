"""A teacher's stored embeddings are those of the pictures and captions that training shows."""

import shutil
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import xmodal
from tests.pretrained_models import write_clip, write_pretrained
from tests.processes import on_ranks
from tests.recipes import recipe_of
from tests.shard_sets import described, encode, write_shards
from tests.training_sets import TOKENIZER, batches
from xmodal.assembly.build import build_method
from xmodal.assembly.data import Shards, mixture, training_set
from xmodal.assembly.feature_shards import feature_shards
from xmodal.assembly.model import Model
from xmodal.assembly.recipe import Recipe
from xmodal.assembly.teacher import Teacher, check_teacher, reason_against
from xmodal.data.batch import Batch, BatchSpec
from xmodal.data.manifest import Manifest
from xmodal.data.numbered_views import NumberedViews
from xmodal.data.reader import SampleReader
from xmodal.errors import UserError

CPU = torch.device("cpu")
WIDTH, BATCH = 8, 12
TAUGHT = BatchSpec(teacher=WIDTH)
AUGMENT = {"kind": "colour", "blur": 0.3}


def shards(count: int = 24, bad: Sequence[int] = ()) -> dict[str, dict[str, bytes]]:
    """Noise of different sizes, each image with one to three captions; some do not decode."""
    random = np.random.default_rng(0)
    return {
        f"{number:05d}": {
            "jpg": b"no image"
            if number in bad
            else encode(random.integers(0, 256, (40, 50 + number, 3), dtype=np.uint8), "JPEG"),
            "json": described(
                [f"{number} {word}" for word in ("1", "22", "333")[: 1 + number % 3]],
                image_id=str(number),
            ),
        }
        for number in range(count)
    }


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    samples = list(shards(bad=[4]).items())
    return write_shards(tmp_path / "set", [dict(samples[:15]), dict(samples[15:])])


def student(folder: Path, **changes: Any) -> Recipe:
    """A recipe whose student sees the pictures at the size of the teacher's, here its own."""
    given: dict[str, Any] = {
        "train": ["*"],
        "method__kind": "distilled",
        "method__teacher_embedding": WIDTH,
        "data__feature_cache": None,
        "data__crop": [0.2, 0.9],
        "data__flip": True,
        "data__augment": AUGMENT,
        "data__batch_size": BATCH,
        "data__lanes": 6,
        "data__window": 4,
        "data__teacher": {"source": "none", "features": str(folder / "store"), "views": 3},
        "stage": {"losses": {"affinity": 1}},
    }
    return recipe_of(folder, **given | changes)


def teacher_of(recipe: Recipe, seed: int = 5) -> Teacher:
    """A teacher of random weights that prepares images as the recipe's student does."""
    own = recipe_of(Path("nowhere"), data__feature_cache=None, training={"seed": seed})
    model = Model(build_method(own, TOKENIZER.vocabulary, CPU).eval(), own, TOKENIZER, CPU)
    data = recipe.data
    augment = data.augment.build() if data.augment else None
    transform = replace(model.transform, crop=data.crop, flip=data.flip, augment=augment)
    assert data.teacher
    return Teacher(model, NumberedViews(data.teacher.seed, data.teacher.views), transform)


def stored(recipe: Recipe, manifest: Manifest, seed: int = 5) -> Manifest:
    return teacher_of(recipe, seed).features(manifest, recipe.data, lambda _: None)


def read(recipe: Recipe, manifest: Manifest, *, defer: bool = False, **options: Any) -> list[Batch]:
    """The batches of three epochs that a recipe trains on; with `defer` as a GPU makes them."""
    sets = Shards([manifest], teacher=[stored(recipe, manifest)])
    dataset = training_set(recipe, sets, mixture(recipe, sets), TOKENIZER, TAUGHT, defer=defer)
    found = batches(dataset, range(6), size=BATCH, **options)
    return [dataset.augmented(batch) for batch in found]


def close(ours: Tensor, theirs: Tensor) -> None:
    """They are rounded to float16, and other batches of an encoder round otherwise."""
    torch.testing.assert_close(ours, theirs.float(), atol=2e-3, rtol=0)


@pytest.mark.parametrize(("augment", "defer"), [(None, False), (AUGMENT, False), (AUGMENT, True)])
def test_the_student_sees_the_picture_and_the_caption_of_each_stored_embedding(
    manifest: Manifest, tmp_path: Path, augment: dict[str, Any] | None, defer: bool
) -> None:
    recipe = student(tmp_path, data__augment=augment)
    teacher, shown = teacher_of(recipe), read(recipe, manifest, defer=defer)
    with torch.no_grad():
        for batch in shown:
            assert batch.teacher_images is not None
            close(batch.teacher_images, teacher.images(batch.images))
            texts = teacher.model.method.encode(replace(batch, images=None, draws=None)).texts
            close(batch.teacher_texts, texts)
    # One bad sample in twenty-four, three times an epoch's worth of them; a neighbour is shown.
    assert [fault.key for batch in shown for fault in batch.faults] == ["00004"] * 3
    # Each image comes in no more than its three views, and in several of them.
    both = zip(
        torch.cat([batch.image_ids for batch in shown]).tolist(),
        torch.cat([batch.teacher_images for batch in shown]).tolist(),
        strict=True,
    )
    views: dict[int, set[tuple[float, ...]]] = {}
    for image, row in both:
        views.setdefault(image, set()).add(tuple(row))
    assert len(views) == 23
    assert max(map(len, views.values())) == 3
    assert sum(map(len, views.values())) > 40


def test_ranks_and_workers_read_the_same(manifest: Manifest, tmp_path: Path) -> None:
    recipe = student(tmp_path)
    whole = read(recipe, manifest)
    parts = [read(recipe, manifest, rank=rank, ranks=2, workers=rank) for rank in range(2)]
    for step, batch in enumerate(whole):
        assert batch.images is not None
        for rank in range(2):
            for name in ("images", "teacher_images", "teacher_texts"):
                ours, theirs = getattr(batch, name), getattr(parts[rank][step], name)
                assert ours[rank::2].equal(theirs), name


def test_ranks_write_what_one_does(manifest: Manifest, tmp_path: Path) -> None:
    alone = stored(student(tmp_path / "one"), manifest)
    for together in on_ranks(2, stored, student(tmp_path / "two"), manifest):
        assert Path(together.url).name == Path(alone.url).name
        for one, other in zip(alone.shards, together.shards, strict=True):
            assert _members(one.url) == _members(other.url)


def _members(tar: str) -> dict[str, bytes]:
    with tarfile.open(tar) as opened:
        return {one.name: opened.extractfile(one).read() for one in opened}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "changes",
    [
        {"data__crop": [0.3, 0.9]},
        {"data__flip": False},
        {"data__augment": None},
        {"data__teacher": {"source": "none", "features": "STORE", "views": 2}},
        {"data__teacher": {"source": "none", "features": "STORE", "views": 3, "seed": 1}},
    ],
)
def test_other_augmentations_have_a_folder_of_their_own(
    manifest: Manifest, tmp_path: Path, changes: dict[str, Any]
) -> None:
    if "data__teacher" in changes:
        changes["data__teacher"]["features"] = str(tmp_path / "store")
    first, other = (stored(student(tmp_path, **c), manifest) for c in ({}, changes))
    assert first.url != other.url


def test_a_teacher_and_a_set_have_their_folder_which_is_filled_once(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = student(tmp_path)
    first = stored(recipe, manifest)
    assert stored(recipe, manifest, seed=6).url != first.url
    fewer = write_shards(tmp_path / "other", [shards(12)])
    assert stored(recipe, fewer).url != first.url
    # The same data in another place are the same: their shards have the same names.
    shutil.copytree(tmp_path / "set", tmp_path / "moved")
    monkeypatch.setattr(Teacher, "encode", None)
    moved = replace(manifest, url=str(tmp_path / "moved"))
    assert stored(recipe, moved).url == first.url


def test_features_of_other_samples_are_refused(manifest: Manifest, tmp_path: Path) -> None:
    recipe = student(tmp_path)
    teacher = teacher_of(recipe)
    folder = Path(stored(recipe, manifest).url)
    shutil.rmtree(folder)
    few = write_shards(tmp_path / "few", [shards(12)])
    feature_shards(folder, few, lambda *_: teacher.encode, max_bad_share=0.1, say=lambda _: None)
    with pytest.raises(UserError, match=r"has features of 12 samples, and .* has 24; remove that"):
        stored(recipe, manifest)
    shutil.rmtree(folder)
    renamed = {f"9{key}": files for key, files in shards(24, [4]).items()}
    others = write_shards(tmp_path / "renamed", [renamed])
    feature_shards(folder, others, lambda *_: teacher.encode, max_bad_share=0.1, say=lambda _: None)
    with pytest.raises(UserError, match=r"has features of sample 000000000/900000, where .* 00000"):
        stored(recipe, manifest)


WRONG = {
    "data.teacher is missing: distilled learns from": {"data__teacher": None},
    "data.teacher is for methods that learn from one .kind: distilled., and clip does not": {
        "method__kind": "clip"
    },
    "training reads features in their place": {"data__feature_cache": "cache"},
    "but `texts` of data.train draw": {
        "data__train": [{"url": "set", "texts": {"captions": 1, "title": 1}}]
    },
    "data.teacher.views=3, but all views of an image are alike": {
        "data__crop": None,
        "data__flip": False,
        "data__augment": None,
    },
}


@pytest.mark.parametrize("message", WRONG)
def test_what_does_not_fit_a_teacher_is_one_line(message: str, tmp_path: Path) -> None:
    changes = dict(WRONG[message])
    contents = TAUGHT
    if "method__kind" in changes:
        contents = BatchSpec()
    recipe = student(tmp_path)
    values = recipe.model_dump(mode="json", exclude_unset=True)
    for key, value in changes.items():
        room, name = key.split("__")
        values[room][name] = value
        if value == "clip":
            del values[room]["teacher_embedding"]
    with pytest.raises(UserError, match=message):
        check_teacher(Recipe.model_validate(values), contents)


def test_models_of_other_libraries_teach(manifest: Manifest, tmp_path: Path) -> None:
    for number, write in enumerate((write_pretrained, write_clip)):
        folder = write(tmp_path / str(number))
        given = {"source": str(folder), "features": str(tmp_path / "store"), "views": 3}
        recipe = student(tmp_path, data__teacher=given)
        dim = xmodal.load(folder).encode_texts("a").shape[1]
        teacher = Teacher.of(recipe, BatchSpec(teacher=dim), CPU)
        assert teacher is not None
        sample = SampleReader(teacher.features(manifest, recipe.data, lambda _: None))[0]
        assert sample.features("image").shape == (3, dim)
        texts = torch.tensor(sample.features("text"))
        close(texts, xmodal.load(folder).encode_texts(SampleReader(manifest)[0].captions()))


UNFIT: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing there": (lambda _: None, "data.teacher.source: .* is no run folder"),
    "another width": (write_pretrained, "method.teacher_embedding=5, but the teacher .* in 8 dim"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_model_that_cannot_teach_is_one_line(case: str, tmp_path: Path) -> None:
    write, message = UNFIT[case]
    write(tmp_path / "model")
    given = {"source": str(tmp_path / "model"), "features": str(tmp_path / "store")}
    with pytest.raises(UserError, match=message):
        Teacher.of(student(tmp_path, data__teacher=given), BatchSpec(teacher=5), CPU)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, ""),
        ({"method__kind": "pvse", "stage": {"losses": {"hardest": 1}}}, "several embeddings"),
        ({"method__image": {"kind": "features", "features": 6}}, "trained on features"),
    ],
)
def test_what_keeps_a_model_from_teaching(changes: dict[str, Any], message: str) -> None:
    own = recipe_of(Path("nowhere"), data__feature_cache=None, **changes)
    model = Model(build_method(own, TOKENIZER.vocabulary, CPU).eval(), own, TOKENIZER, CPU)
    fault = reason_against(model)
    assert message in fault if message else fault == ""
