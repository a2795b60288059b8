"""launch/embed.py: embeddings of shards, whole commands."""

import io
import json
import os
import shutil
import signal
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import xmodal
from shards.build import build
from tests.commands import Done, embed, run, train
from tests.pretrained_models import write_clip
from tests.search.embedding_folders import embedded_files
from xmodal.assembly.indexed_model import indexed_model
from xmodal.search.embeddings import INFO, Embeddings

EMBEDDER = "xmodal.search.shard_embedder:ShardEmbedder"


def embedded(*arguments: object, **options: Any) -> Embeddings:
    """Run the command, and return the folder that it wrote."""
    done = embed(*arguments, **options)
    assert done.code == 0, done
    return Embeddings(str(arguments[arguments.index("--to") + 1]))


def test_every_image_and_caption_has_its_vector(
    finished: Path, tens: Path, embedded_tens: Path
) -> None:
    found, model = Embeddings(embedded_tens), xmodal.load(finished, device="cpu")
    assert (found.info.parts, found.info.sides, found.info.dim) == (5, ["images", "texts"], 64)
    assert (found.info.samples, found.info.faults) == (48, {})
    assert found.info.samples_per_second > 0
    assert found.info.model.checkpoint == "step-24"
    assert (found.num_rows("images"), found.num_rows("texts")) == (48, 240)
    for part in found:
        rows, captions = part.metadata().to_pylist(), part.captions().to_pylist()
        assert [row["number"] for row in rows] == list(range(len(rows)))
        pictures = [picture(Path(part.shard), row) for row in rows]
        opened = [Image.open(io.BytesIO(data)) for data in pictures]
        assert [image.size for image in opened] == [(row["width"], row["height"]) for row in rows]
        expected = model.encode_images(pictures)
        assert torch.allclose(torch.tensor(part.vectors("images")), expected, atol=1e-6)
        texts = model.encode_texts([row["caption"] for row in captions])
        assert torch.allclose(torch.tensor(part.vectors("texts")), texts, atol=1e-6)
        assert [row["row"] for row in captions] == [n // 5 for n in range(5 * len(rows))]
        assert [row["caption"] for row in captions[::5]] == [row["caption"] for row in rows]
        assert {row["shard"] for row in rows} == {Path(part.shard).name}
        assert all(row["labels"] for row in rows)


def picture(tar: Path, row: dict[str, Any], role: str = "") -> bytes:
    """Return the bytes of an image at the place that its row says, that of its role in the tar."""
    data = tar.read_bytes()[row["offset"] : row["offset"] + row["size"]]
    with tarfile.open(tar) as opened:
        names = {name.rpartition(".")[0]: name for name in opened.getnames() if "json" not in name}
        assert opened.extractfile(names[row["key"] + role]).read() == data
    return data


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_change_nothing(
    ranks: int, finished: Path, tens: Path, embedded_tens: Path, tmp_path: Path
) -> None:
    given = ["--data", tens, "--to", tmp_path / "dealt", "--dtype", "float32", "--batch-size", 8]
    done = embed(finished, *given, ranks=ranks)
    assert done.code == 0, done
    assert embedded_files(tmp_path / "dealt") == embedded_files(embedded_tens)
    # The same command again has nothing left to do.
    before = (tmp_path / "dealt" / INFO).read_bytes()
    again = embed(finished, *given)
    assert again.code == 0, again
    assert "Embedded" not in again.out
    assert (tmp_path / "dealt" / INFO).read_bytes() == before


def test_it_resumes_where_it_was_killed(
    finished: Path, tens: Path, embedded_tens: Path, tmp_path: Path
) -> None:
    to = tmp_path / "killed"
    given = [finished, "--data", tens, "--to", to, "--dtype", "float32", "--batch-size", 8]
    done = embed(*given, killed_at="xmodal.search.shard_embedder:encode_batch:5")
    assert done.code == -9
    assert len(list((to / "metadata").glob("*.parquet"))) == 1
    done = embed(*given)
    assert done.code == 0, done
    assert done.out.startswith("Resuming: 1 of 5 shards are embedded\n")
    assert embedded_files(to) == embedded_files(embedded_tens)


def test_bad_samples_are_skipped_named_and_counted(finished: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    build("scenes", data, splits=("val",), options={"val": 24}, samples_per_shard=8)
    spoil(data / "val" / "val-000001.tar", 3)
    done = embed(finished, "--data", data / "val", "--to", tmp_path / "to", "--batch-size", 4)
    assert done.code == 0, done
    (key,) = [
        json.loads(line)["key"]
        for line in (tmp_path / "to" / "faults" / "faults_0001.jsonl").read_text().splitlines()
    ]
    shard = data / "val" / "val-000001.tar"
    cause = "image does not decode (not an image)"
    assert done.out.count(f"bad sample, skipped: {shard}, {key}: {cause}\n") == 1
    assert f"bad samples: 1, named in {tmp_path}/to/faults ({cause}: 1)\n" in done.out
    found = Embeddings(tmp_path / "to")
    assert (found.info.samples, found.info.faults) == (23, {cause: 1})
    assert found.info.dtype == found.parts[0].vectors().dtype == "float16"
    part = found.parts[1]
    assert [row["number"] for row in part.metadata().to_pylist()] == [0, 1, 2, 4, 5, 6, 7]
    assert [row["row"] for row in part.captions().to_pylist()] == [n // 5 for n in range(35)]
    assert not (tmp_path / "to" / "faults" / "faults_0000.jsonl").exists()
    given = ["--data", data / "val", "--to", tmp_path / "none", "--max-bad-share", 0]
    assert embed(finished, *given).error.startswith("1 of 16 samples cannot be read, the last ")


def spoil(tar: Path, number: int) -> None:
    """Overwrite the image of a sample."""
    with tarfile.open(tar) as opened:
        images = [one for one in opened.getmembers() if not one.name.endswith("json")]
    member = images[number]
    with tar.open("r+b") as file:
        file.seek(member.offset_data)
        file.write(b"x" * member.size)


def test_mistakes_are_one_line(
    finished: Path, tens: Path, embedded_tens: Path, tmp_path: Path
) -> None:
    def error(*arguments: object) -> str:
        return embed(*arguments).error

    to = tmp_path / "to"
    assert "there is no such folder" in error(tmp_path / "no", "--data", tens, "--to", to)
    assert "no folder" in error(finished, "--data", tmp_path / "no", "--to", to)
    assert "--dtype" in error(finished, "--data", tens, "--to", to, "--dtype", "int8")
    assert not to.exists()
    # What is there stays.
    before = embedded_files(embedded_tens)
    for message, option in (
        ("embeddings of other dtype (float32, not float16)", ["--data", tens]),
        ("embeddings of other data", ["--data", tens / "val-000000.tar", "--dtype", "float32"]),
        (
            "embeddings of other model (clip step-24 trained, not clip step-18 trained)",
            ["--data", tens, "--dtype", "float32", "--checkpoint", "step-18"],
        ),
    ):
        assert message in error(finished, *option, "--to", embedded_tens)
    assert embedded_files(embedded_tens) == before
    to.mkdir()
    (to / "thesis.tex").touch()
    assert f"--to {to} holds something else (thesis.tex)" in error(
        finished, "--data", tens, "--to", to
    )
    file = tmp_path / "file"
    file.touch()
    assert f"--to {file} cannot be made a folder" in error(finished, "--data", tens, "--to", file)


def test_images_without_captions_are_embedded(finished: Path, tens: Path, tmp_path: Path) -> None:
    """A model that reads captions in training embeds images that have none."""
    bare = shutil.copytree(tens, tmp_path / "bare")
    for tar in bare.glob("*.tar"):
        strip(tar)
    build_index(bare)
    done: Done = embed(finished, "--data", bare, "--to", tmp_path / "to", "--dtype", "float32")
    assert done.code == 0, done
    assert "have no captions; images alone are embedded" in done.out
    found = Embeddings(tmp_path / "to")
    assert found.info.sides == ["images"]
    assert found.num_rows() == 48
    assert set(found.parts[0].metadata(["caption"]).to_pydict()["caption"]) == {None}
    assert np.isfinite(found.parts[0].vectors()).all()


def strip(tar: Path) -> None:
    """Write a tar again with its images alone."""
    with tarfile.open(tar) as opened:
        images = {
            one.name: opened.extractfile(one).read()
            for one in opened.getmembers()
            if not one.name.endswith("json")
        }
    with tarfile.open(tar, "w") as opened:
        for name, data in images.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            opened.addfile(member, io.BytesIO(data))


def build_index(folder: Path) -> None:
    from shards.index import index

    index(str(folder), 1)


@pytest.mark.slow
def test_folders_of_models_embed_too(
    finished: Path, tens: Path, embedded_tens: Path, tmp_path: Path
) -> None:
    """An exported run has the embeddings of the run; a pretrained model has its own."""
    exported, clip = tmp_path / "exported", write_clip(tmp_path / "clip")
    done = run("export.py", finished, "--to", exported, "--format", "xmodal")
    assert done.code == 0, done
    given = ["--data", tens, "--dtype", "float32", "--batch-size", 8]
    found = embedded(exported, *given, "--to", tmp_path / "a")
    assert (found.info.model.checkpoint, found.info.model.source) == (None, str(exported))
    for ours, theirs in zip(found, Embeddings(embedded_tens), strict=True):
        assert (ours.vectors() == theirs.vectors()).all()
    found = embedded(clip, *given, "--to", tmp_path / "b")
    pictures = [picture(Path(found.parts[0].shard), row) for row in rows_of(found)]
    expected = xmodal.load(clip, device="cpu").encode_images(pictures)
    assert np.allclose(found.parts[0].vectors(), expected, atol=1e-6)
    for folder in (exported, clip):
        error = embed(folder, *given, "--to", tmp_path / "c", "--checkpoint", "best").error
        assert "no checkpoint or weights to choose" in error


def rows_of(found: Embeddings) -> list[dict[str, Any]]:
    """Return the metadata of the first part."""
    return found.parts[0].metadata().to_pylist()


METHODS = {
    "pvse": (["images", "texts"], 2),
    "simsiam": (["images"], 1),
    "ptf_simcm": (["images"], 1),
    "tirg": (["images", "queries"], 1),
    "dim": (["images", "queries"], 1),
    "uncsm": (["images", "texts"], 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_embeds_what_it_searches(
    method: str,
    given: Callable[[str], list[str]],
    scenes: Path,
    queries: Path,
    classes: Path,
    tmp_path: Path,
) -> None:
    trained, to = tmp_path / "run", tmp_path / "to"
    done = train(*given(method), f"run={trained}")
    assert done.code == 0, done
    data = {"tirg": queries / "composed_train", "dim": queries / "composed_train"}
    url = data.get(method, classes / "val" if method == "uncsm" else scenes / "val")
    found = embedded(trained, "--data", url, "--to", to, "--dtype", "float32", ranks=2)
    sides, each = METHODS[method]
    assert (found.info.sides, found.info.embeddings_per_item) == (sides, each)
    model = xmodal.load(trained, device="cpu")
    for part in found:
        rows = part.metadata().to_pylist()
        for side in sides:
            assert part.vectors(side).shape[1] == found.info.dim
            assert np.allclose(np.linalg.norm(part.vectors(side), axis=1), 1, atol=1e-5)
        if method == "uncsm":  # on features
            assert {row["width"] for row in rows} == {row["offset"] for row in rows} == {None}
            continue
        role = ".target" if "queries" in sides else ""
        pictures = [picture(Path(part.shard), row, role) for row in rows]
        expected = model.encode_images(pictures).reshape(-1, found.info.dim)
        assert np.allclose(part.vectors(), expected, atol=1e-6)
        if "queries" in sides:
            said = part.queries().to_pylist()
            sources = [picture(Path(part.shard), row, ".source") for row in said]
            expected = model.encode_queries(sources, [row["caption"] for row in said])
            assert np.allclose(part.vectors("queries"), expected, atol=1e-6)
            assert [rows[row["row"]]["number"] for row in said] == [row["number"] for row in said]
    if "queries" in sides:  # plain images are a gallery
        gallery = queries / "composed_gallery"
        found = embedded(trained, "--data", gallery, "--to", tmp_path / "gallery")
        assert found.info.sides == ["images"]
    else:
        wrong = queries / "composed_train"
        assert "composed queries" in embed(trained, "--data", wrong, "--to", tmp_path / "no").error


def ask_to_stop(number: signal.Signals, rank: int, embedder: Any, *_: Any) -> None:
    """Send a rank a signal as it begins its second shard."""
    if os.environ.get("RANK", "0") == str(rank) and embedder.faults.seen:
        os.kill(os.getpid(), number)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "ranks"), [(signal.SIGTERM, 1), (signal.SIGUSR1, 2)])
def test_asked_to_stop_it_resumes(
    number: signal.Signals,
    ranks: int,
    finished: Path,
    tens: Path,
    embedded_tens: Path,
    tmp_path: Path,
) -> None:
    to = tmp_path / "stopped"
    given = [finished, "--data", tens, "--to", to, "--dtype", "float32", "--batch-size", 8]
    before = {f"{EMBEDDER}._embed_shard": partial(ask_to_stop, number, ranks - 1)}
    stopped = embed(*given, ranks=ranks, before=before)
    assert stopped.code == 75, stopped
    assert stopped.err == "Interrupted. Rerun the same command to resume.\n"
    assert not [path for path in to.rglob("*") if path.name.endswith(".part")]
    done = embed(*given, ranks=ranks)
    assert done.code == 0, done
    assert embedded_files(to) == embedded_files(embedded_tens)


@pytest.mark.slow
def test_embeddings_of_a_width_are_searched_at_that_width(
    finished: Path, tens: Path, tmp_path: Path
) -> None:
    found = embedded(finished, "--data", tens, "--to", tmp_path / "cut", "--width", 16)
    assert (found.info.dim, found.info.model.width) == (16, 16)
    model = indexed_model(found.info.model)
    assert model.encode_texts("a red circle").shape == (1, 16)
