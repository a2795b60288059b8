"""launch/embed.py: embeddings of shards, whole commands."""

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import xmodal
from shards.build import build
from tests.commands import Done, embed
from tests.search.embedding_folders import embedded_files
from xmodal.search.embeddings import INFO, Embeddings


def embedded(*arguments: object, **options: Any) -> Embeddings:
    """Run the command, and return the folder that it wrote."""
    done = embed(*arguments, **options)
    assert done.code == 0, done
    return Embeddings(str(arguments[arguments.index("--to") + 1]))


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 scenes in shards of ten."""
    folder = tmp_path_factory.mktemp("tens")
    build("scenes", folder, splits=("val",), options={"val": 48}, samples_per_shard=10)
    return folder / "val"


@pytest.fixture(scope="session")
def whole(finished: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embeddings of an undisturbed command on one rank."""
    folder = tmp_path_factory.mktemp("embeddings") / "whole"
    embedded(finished, "--data", shards, "--to", folder, "--dtype", "float32", "--batch-size", 8)
    return folder


def test_every_image_and_caption_has_its_vector(finished: Path, shards: Path, whole: Path) -> None:
    found, model = Embeddings(whole), xmodal.load(finished, device="cpu")
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


def picture(tar: Path, row: dict[str, Any]) -> bytes:
    """Return the bytes of an image at the place that its row says; check them with its tar."""
    data = tar.read_bytes()[row["offset"] : row["offset"] + row["size"]]
    with tarfile.open(tar) as opened:
        (name,) = [
            n for n in opened.getnames() if n.startswith(f"{row['key']}.") and "json" not in n
        ]
        assert opened.extractfile(name).read() == data
    return data


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_change_nothing(
    ranks: int, finished: Path, shards: Path, whole: Path, tmp_path: Path
) -> None:
    given = ["--data", shards, "--to", tmp_path / "dealt", "--dtype", "float32", "--batch-size", 8]
    done = embed(finished, *given, ranks=ranks)
    assert done.code == 0, done
    assert embedded_files(tmp_path / "dealt") == embedded_files(whole)
    # The same command again has nothing left to do.
    before = (tmp_path / "dealt" / INFO).read_bytes()
    again = embed(finished, *given)
    assert again.code == 0, again
    assert "Embedded" not in again.out
    assert (tmp_path / "dealt" / INFO).read_bytes() == before


def test_it_resumes_where_it_was_killed(
    finished: Path, shards: Path, whole: Path, tmp_path: Path
) -> None:
    to = tmp_path / "killed"
    given = [finished, "--data", shards, "--to", to, "--dtype", "float32", "--batch-size", 8]
    done = embed(*given, killed_at="xmodal.search.shard_embedder:encode_batch:5")
    assert done.code == -9
    assert len(list((to / "metadata").glob("*.parquet"))) == 1
    done = embed(*given)
    assert done.code == 0, done
    assert done.out.startswith("Resuming: 1 of 5 shards are embedded\n")
    assert embedded_files(to) == embedded_files(whole)


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


def test_mistakes_are_one_line(finished: Path, shards: Path, whole: Path, tmp_path: Path) -> None:
    def error(*arguments: object) -> str:
        return embed(*arguments).error

    to = tmp_path / "to"
    assert "there is no such folder" in error(tmp_path / "no", "--data", shards, "--to", to)
    assert "no folder" in error(finished, "--data", tmp_path / "no", "--to", to)
    assert "--dtype" in error(finished, "--data", shards, "--to", to, "--dtype", "int8")
    assert not to.exists()
    # What is there stays.
    before = embedded_files(whole)
    for message, option in (
        ("embeddings of other dtype (float32, not float16)", ["--data", shards]),
        ("embeddings of other data", ["--data", shards / "val-000000.tar", "--dtype", "float32"]),
        (
            "embeddings of other model (clip step-24 trained, not clip step-18 trained)",
            ["--data", shards, "--dtype", "float32", "--checkpoint", "step-18"],
        ),
    ):
        assert message in error(finished, *option, "--to", whole)
    assert embedded_files(whole) == before
    to.mkdir()
    (to / "thesis.tex").touch()
    assert f"--to {to} holds something else (thesis.tex)" in error(
        finished, "--data", shards, "--to", to
    )
    file = tmp_path / "file"
    file.touch()
    assert "cannot be written" in error(finished, "--data", shards, "--to", file)


def test_images_without_captions_are_embedded(finished: Path, shards: Path, tmp_path: Path) -> None:
    """What reads captions in training embeds images that have none."""
    bare = shutil.copytree(shards, tmp_path / "bare")
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
