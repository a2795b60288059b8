"""What a user can get wrong in training: one line that says what, where and what to do."""

import io
import json
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import by_launcher, train
from xmodal.data.manifest import write_manifest
from xmodal.data.shard_index import write_index
from xmodal.runs.run import Run

WRONG_RECIPES = {
    "a name that is none": (["quickstrat"], "there is no recipe quickstrat (did you mean quickst"),
    "a file that is none": (["nothing.yaml"], "there is no recipe file nothing.yaml"),
    "a key": (["quickstart", "data.batchsize=8"], "unknown key data.batchsize (did you mean batch"),
    "a value": (["quickstart", "training.zero=4"], "training.zero: 4 is not allowed"),
    "a source": (
        ["quickstart", "data.build=scene"],
        "data.build: scene is no source (did you",
    ),
    "a source that reads a folder": (["quickstart", "data.build=coco"], "coco reads a folder"),
    "a length": (["quickstart", "stages.0.length=5 %"], "stages.0.length: 5 % is not allowed"),
    "no folder of shards": (["RECIPE", "data.train=nowhere"], "there is no folder nowhere"),
    "a part to train": (
        ["RECIPE", "stages.0.train=[imag, loss]"],
        "stages.0.train: 'imag' is no part of the method (did you mean image?); parts: image, ",
    ),
    "a model": (["RECIPE", "method.image.name=vit_tinny"], "timm has no model vit_tinny; near: "),
    "a metric": (
        ["RECIPE", "checkpoints.best=recall@7"],
        "checkpoints.best: unknown metric recall@7 (did you mean recall@5?); known metrics: ",
    ),
    "a metric of which less is better": (
        ["RECIPE", "checkpoints.best=text_to_image/median_rank"],
        "checkpoints.best: unknown metric text_to_image/median_rank",
    ),
    "features to keep": (
        ["RECIPE", "data.feature_cache=cache"],
        "data.feature_cache: every encoder is trained",
    ),
}


@pytest.mark.parametrize("mistake", WRONG_RECIPES)
def test_a_wrong_recipe_makes_nothing(mistake: str, recipe: Path, tmp_path: Path) -> None:
    words, line = WRONG_RECIPES[mistake]
    words = [word.replace("RECIPE", str(recipe)) for word in words]
    assert line in train(*words, f"run={tmp_path}/run").error
    assert not list(tmp_path.iterdir())


def test_ranks_that_do_not_divide_the_batch(recipe: Path, tmp_path: Path) -> None:
    done = train(recipe, f"run={tmp_path}/run", "data.batch_size=33", ranks=2)
    assert done.error == "2 ranks do not divide data.batch_size=33; nearest: 32 or 34"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("ranks", "micro_batch", "nearest"), [(2, 5, "4 or 8"), (2, 32, "16"), (1, 33, "32")]
)
def test_micro_batches_that_do_not_divide_the_batch(
    ranks: int, micro_batch: int, nearest: str, recipe: Path, tmp_path: Path
) -> None:
    done = train(recipe, f"run={tmp_path}/run", f"data.micro_batch_size={micro_batch}", ranks=ranks)
    assert done.error == (
        f"ranks × data.micro_batch_size ({ranks} × {micro_batch}) does not divide "
        f"data.batch_size=32; nearest micro_batch_size: {nearest}"
    )
    assert not list(tmp_path.iterdir())


def unindexed(shards: Path) -> str:
    (shards / "shardindex.json").unlink()
    return f"{shards} has no shardindex.json: run `python -m shards index {shards}`"


def zero_bytes(shards: Path) -> str:
    (shards / "train-000000.tar").write_bytes(b"")
    return f"shard {shards}/train-000000.tar is truncated: 0 of "


def no_samples(shards: Path) -> str:
    tar = shards / "train-000001.tar"
    tarfile.open(tar, "w").close()
    write_index(tar)
    write_manifest(shards, {"train-000000.tar": 192, tar.name: 0})
    return f"shard {tar} is empty: remove it and run `python -m shards index {shards}`"


def cut(shards: Path) -> str:
    tar = shards / "train-000000.tar"
    size = tar.stat().st_size
    with tar.open("r+b") as file:
        file.truncate(size // 2)
    return (
        f"shard {tar} is truncated: {size // 2:,} of {size:,} bytes; its samples beyond "
        "them count as bad: about 96 of 192 samples in 1 such shards, more than "
        "data.max_bad_share=0.01"
    )


@pytest.mark.parametrize("broken", [unindexed, zero_bytes, no_samples, cut])
@pytest.mark.parametrize("split", ["train", "val"])
def test_broken_shards_make_nothing(
    split: str, broken: Callable[[Path], str], scenes: Path, recipe: Path, tmp_path: Path
) -> None:
    shards = shutil.copytree(scenes / "train", tmp_path / "shards")
    line = broken(shards)
    assert line in train(recipe, f"run={tmp_path}/run", f"data.{split}={shards}").error
    assert not (tmp_path / "run").exists()


def test_by_the_launcher_it_is_one_line_too(recipe: Path, tmp_path: Path) -> None:
    done = by_launcher(str(recipe), f"run={tmp_path}/run", f"data.val={tmp_path}")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"error: there is no folder {tmp_path} with shards"
    # A busy machine takes so long that the command reports what it waits for.
    lines = [*done.stderr.splitlines()[:-1], *done.stdout.splitlines()]
    assert [line for line in lines if not re.fullmatch(r".+ \(\d+ s\)", line)] == []


def test_the_run_of_another_recipe_is_left_alone(
    recipe: Path, finished: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    line = train(recipe, f"run={run}", "data.batch_size=16", "training.seed=1").error
    assert "was begun with another recipe (data.batch_size: 32 → 16; training.seed: 0 → 1)" in line
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_no_run_is_left_alone(kind: str, recipe: Path, tmp_path: Path) -> None:
    notes = tmp_path / "mine" / "notes"
    notes.parent.mkdir()
    notes.write_text("mine")
    run, line = {
        "folder": (notes.parent, "is no run folder: it has no recipe"),
        "file": (notes, "is a file; name a folder"),
    }[kind]
    assert line in train(recipe, f"run={run}").error
    assert list(tmp_path.rglob("*")) == [notes.parent, notes]
    assert notes.read_text() == "mine"


@pytest.mark.parametrize(("ranks", "micro_batch"), [(1, "null"), (2, "null"), (2, 4)])
def test_a_loss_that_is_not_finite(
    ranks: int, micro_batch: int | str, recipe: Path, tmp_path: Path
) -> None:
    given = ["stages.0.optimizer.lr=1e30", "stages.0.schedule.warmup=0"]
    given += [f"data.micro_batch_size={micro_batch}"]
    line = train(recipe, f"run={tmp_path}/run", *given, ranks=ranks).error
    assert line.startswith("the contrastive loss is nan at step 2 (stage main, positions 32 to 63")
    assert [row["step"] for row in Run(tmp_path / "run").history()] == [1]


def broken_shards(folder: Path, scenes: Path, *, images: int = 0, captions: int = 0) -> Path:
    """Copy the training shards, with text in place of some images and Latin-1 in some captions."""
    (folder / "bad").mkdir()
    source, target = scenes / "train" / "train-000000.tar", folder / "bad" / "bad-000000.tar"
    with tarfile.open(source) as whole, tarfile.open(target, "w") as bad:
        keys = sorted({member.name.split(".")[0] for member in whole})
        # Far apart, so that each has a neighbour in its lane that can be read.
        text, latin = keys[::12][:images], keys[::12][images : images + captions]
        for member in whole:
            data = whole.extractfile(member).read()  # type: ignore[union-attr]
            key, extension = member.name.split(".", 1)
            if extension != "json" and key in text:
                data = b"not an image, but the page that says so"
            if extension == "json" and key in latin:
                captions_of = json.loads(data) | {"captions": ["caf\xe9"]}
                data = json.dumps(captions_of, ensure_ascii=False).encode("latin-1")
            member.size = len(data)
            bad.addfile(member, io.BytesIO(data))
    write_index(target)
    write_manifest(folder / "bad", {target.name: len(keys)})
    return folder / "bad"


def test_a_few_bad_samples_are_named_and_counted(
    recipe: Path, scenes: Path, tmp_path: Path
) -> None:
    shards = broken_shards(tmp_path, scenes, images=1, captions=1)
    given = [recipe, f"run={tmp_path}/run", f"data.train={shards}"]
    done = train(*given, "stages.0.length=2 epochs", ranks=2)
    assert done.code == 0, done.err
    for key, cause in (("000000000", "not an image"), ("000000012", "UTF-8")):
        named = [line for line in done.out.splitlines() if f"{key}" in line]
        assert len(named) == 2  # each epoch meets it once
        assert all(f"{shards}/bad-000000.tar" in line and cause in line for line in named)
    assert Run(tmp_path / "run").history()[-2]["bad_samples"] == 4


def test_too_many_bad_samples_end_it(recipe: Path, scenes: Path, tmp_path: Path) -> None:
    shards = broken_shards(tmp_path, scenes, images=8, captions=4)
    done = train(recipe, f"run={tmp_path}/run", f"data.train={shards}", "data.workers=1")
    # With fewer than a thousand seen, ten may be bad.
    assert done.error.startswith("11 of ") or done.error.startswith("12 of ")
    assert "samples cannot be read (" in done.error
    assert "UTF-8" in done.error
    assert "not an image): 8" in done.error or "not an image): 7" in done.error
    assert f"{shards}/bad-000000.tar" in done.error
    assert "run `python -m shards check` on the shards or raise data.max_bad_share" in done.error


def test_bad_samples_of_val_are_left_out_and_named(
    recipe: Path, scenes: Path, tmp_path: Path
) -> None:
    shards = broken_shards(tmp_path, scenes, images=1, captions=1)
    given = [recipe, f"data.val={shards}", "stages.0.length=2 steps"]
    line = train(*given, f"run={tmp_path}/refused", ranks=2).error
    assert f"2 of 192 samples of {shards} cannot be read, the first {shards}/bad-000000.tar" in line
    done = train(*given, f"run={tmp_path}/run", "data.max_bad_share=0.02", ranks=2)
    assert done.code == 0, done.err
    assert done.out.count("bad sample, skipped: ") == 2
    assert "all-captions: 190 images × 950 texts" in done.out
