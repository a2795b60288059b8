"""Embeddings that are killed over and over, on disk and in a bucket, and many samples of them."""

import os
import signal
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

from shards.build import build
from tests.commands import embed, train
from tests.launch.methods import IMAGE, TEXT
from tests.search.embedding_folders import comparable, embedded_files
from tests.services.s3 import Gateway
from tests.shard_sets import described, write_shards
from tests.storm import Strike
from tests.training_sets import npy
from xmodal.data.manifest import write_manifest
from xmodal.data.storage.s3 import S3Config, S3Storage
from xmodal.search.embeddings import Embeddings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

OPTIONS = ("--dtype", "float32", "--batch-size", 3)
# Functions in which a command is killed, each when it is called for the so-manieth time.
KILLS = [
    ("xmodal.search.output_folder:OutputFolder._write", 1),
    ("xmodal.search.shard_embedder:encode_batch", 4),
    ("xmodal.search.part_files:PartWriter.finish", 1),
    ("xmodal.search.part_files:create_seekable", 7),
    ("xmodal.search.part_files:TableFile._flush", 3),
    ("pathlib:Path.replace", 6),
    ("xmodal.search.shard_embedder:FaultLog.count", 2),
    ("pathlib:Path.replace", 5),
    ("xmodal.search.output_folder:OutputFolder.summarise", 1),
    ("xmodal.search.output_folder:OutputFolder._write", 1),
]


@pytest.fixture(scope="module")
def fours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 scenes in shards of four: whatever is killed, there are shards left."""
    folder = tmp_path_factory.mktemp("fours")
    build("scenes", folder, splits=("val",), options={"val": 160}, samples_per_shard=4)
    return folder / "val"


@pytest.fixture(scope="module")
def undisturbed(finished: Path, fours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embeddings of these by one command on one rank."""
    folder = tmp_path_factory.mktemp("undisturbed") / "to"
    done = embed(finished, "--data", fours, "--to", folder, *OPTIONS)
    assert done.code == 0, done
    return folder


def test_ten_kills_leave_nothing(
    finished: Path, fours: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """Ranks 0 and 1 are killed in turn, in the beginning, in the midst and at the end of a part."""
    storm(finished, fours, tmp_path / "to", KILLS)
    assert embedded_files(tmp_path / "to") == embedded_files(undisturbed)


def storm(
    run: Path,
    data: object,
    to: object,
    kills: Sequence[tuple[str, int]],
    environment: Mapping[str, str] | None = None,
) -> None:
    """Kill a command so often on two ranks, then let it end."""
    given = [run, "--data", data, "--to", to, *OPTIONS]
    for number, (place, call) in enumerate(kills):
        with tempfile.TemporaryDirectory() as folder:
            mark = Path(folder, "struck")
            victim = "rank 0" if "output_folder" in place else f"rank {number % 2}"
            strike = Strike(victim, call, mark)
            done = embed(*given, ranks=2, before={place: strike}, environment=environment)
            assert mark.exists(), f"{victim} not killed in {place}: {done}"
            assert done.code == -signal.SIGKILL, done
    done = embed(*given, ranks=2, environment=environment)
    assert done.code == 0, done


# In a bucket a file appears when its upload is complete.
KILLS_OF_UPLOADS = [
    ("xmodal.data.storage.s3:S3Storage.write", 2),
    ("xmodal.data.storage.s3:S3Storage.create", 3),
    ("xmodal.data.storage.s3:_Upload.put", 4),
    *KILLS[1:5],
    ("xmodal.data.storage.s3:_Upload.put", 5),
    *KILLS[-2:],
]


@pytest.mark.s3
def test_ten_kills_leave_nothing_in_a_bucket(
    finished: Path,
    fours: Path,
    undisturbed: Path,
    s3: Gateway,
    tmp_path: Path,
) -> None:
    """Shards and embeddings lie in a bucket, which the run's own recipe says how to reach."""
    bucket = s3.bucket()
    storage: S3Storage = S3Config(endpoint=s3.endpoint, **s3.places).build()
    for path in fours.iterdir():
        storage.write(f"{bucket}/shards/{path.name}", path.read_bytes())
    run = tmp_path / "run"
    run.symlink_to(finished)
    to = f"{bucket}/embeddings"
    storm(run, f"{bucket}/shards", to, KILLS_OF_UPLOADS, s3.environment)
    found: dict[str, bytes] = {}
    for name in storage.folders(to):
        files = storage.list(f"{to}/{name}")
        found |= {f"{name}/{file}": storage.read(f"{to}/{name}/{file}") for file in files}
    found |= {name: storage.read(f"{to}/{name}") for name in storage.list(to)}
    # They differ in what says where the shards lie.
    ours, theirs = comparable(found), embedded_files(undisturbed)
    assert ours.keys() == theirs.keys()
    assert {k: v for k, v in ours.items() if v != theirs[k]}.keys() == {"embeddings.json"}
    part = Embeddings(to, [S3Config(endpoint=s3.endpoint, **s3.places)]).parts[0]
    assert (part.vectors() == Embeddings(undisturbed).parts[0].vectors()).all()
    assert part.metadata() == Embeddings(undisturbed).parts[0].metadata()


COUNT, SHARDS = 10_000, 20


def note_memory(file: Path, *_: object) -> None:
    """Note the memory of this process and its loaders, in bytes, as it begins a shard."""
    own = psutil.Process()
    used = sum(one.memory_full_info().uss for one in (own, *own.children()))
    with file.open("a") as notes:
        notes.write(f"{used}\n")


def test_memory_does_not_grow(
    given: Callable[[str], list[str]],
    tmp_path: Path,
    figure: Callable[[str], None],
) -> None:
    """200,000 samples of features, each shard of which would take tens of megabytes."""
    run, notes = tmp_path / "run", tmp_path / "notes"
    assert train(*given("uncsm"), f"run={run}").code == 0
    data = many_features(tmp_path / "data")
    options = ["--data", data, "--to", tmp_path / "to", "--workers", 1]
    before = {
        "xmodal.search.shard_embedder:ShardEmbedder._embed_shard": partial(note_memory, notes)
    }
    done = embed(run, *options, before=before, seconds=800)
    assert done.code == 0, done
    assert Embeddings(tmp_path / "to").num_rows() == COUNT * SHARDS
    used = [int(line) / 2**20 for line in notes.read_text().splitlines()]
    assert len(used) == SHARDS
    figure(f"{used[2]:.0f} MiB at shard 3, {used[-1]:.0f} MiB at shard {SHARDS}; {done.out[-200:]}")
    assert max(used[3:]) < used[2] + 15


def many_features(folder: Path) -> Path:
    """Write shards of features that are copies of one."""
    random = np.random.default_rng(0)
    images = random.normal(size=(COUNT, IMAGE)).astype(np.float32)
    texts = random.normal(size=(COUNT, 1, TEXT)).astype(np.float32)
    samples = {
        f"{n:09d}": {
            "image.npy": npy(images[n]),
            "text.npy": npy(texts[n]),
            "json": described([f"sample {n}"], image_id=f"i{n}"),
        }
        for n in range(COUNT)
    }
    first = Path(write_shards(folder, [samples]).shards[0].url)
    names = [f"{number:06d}.tar" for number in range(SHARDS)]
    for name in names:
        if name != first.name:
            for source in (first, first.with_suffix(".idx")):
                os.link(source, (folder / name).with_suffix(source.suffix))
    write_manifest(folder, dict.fromkeys(names, COUNT))
    return folder
