"""Building of an index: whole or not there, and never over anything else."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.search.embedding_folders import image_record, write_embeddings
from tests.search.test_searcher import whole
from xmodal.errors import UserError
from xmodal.search.build_index import build_index
from xmodal.search.embeddings import Embeddings, EmbeddingsInfo
from xmodal.search.index_folder import IndexFolder, Kind

MEMORY = 10**9
ROOT = Path(__file__).parents[2]


def embedded(folder: Path, rows: int = 20, **options: bool) -> Embeddings:
    half = [image_record(str(n)) for n in range(rows // 2)]
    vectors = whole(rows)
    parts = [(vectors[: rows // 2], half), (vectors[rows // 2 :], half)]
    return Embeddings(write_embeddings(folder, parts, **options))


def built(
    embeddings: Embeddings, target: Path, kind: Kind | None = None, memory: int = MEMORY
) -> list[str]:
    lines: list[str] = []
    build_index(embeddings, target, kind, memory, lines.append)
    return lines


def test_an_index_has_the_embeddings_and_their_records(tmp_path: Path) -> None:
    embeddings = embedded(tmp_path / "e")
    assert built(embeddings, tmp_path / "i") == [
        "images: 20 rows of 8 numbers, exact search",
        "texts: 20 rows of 8 numbers, exact search",
        "loading takes 0.00 MB of memory; 0.01 MB are memory-mapped",
    ]
    index = IndexFolder.open(tmp_path / "i")
    assert index.info.kind == "exact"
    assert index.info.embeddings == str(tmp_path / "e")
    assert index.info.model == embeddings.info.model
    assert index.info.data == embeddings.info.data
    vectors = whole(20)
    assert np.array_equal(index.side("images").vectors.numpy(), vectors)
    assert np.array_equal(index.side("texts").vectors.numpy(), -vectors)
    assert [index.side("texts").record(n)["row"] for n in range(20)] == list(range(20))
    assert index.side("images").record(13)["key"] == "3"
    longest = np.linalg.norm(vectors, axis=1).max()
    assert longest <= index.info.sides["images"].longest < longest * 1.001


def test_a_build_repeated_is_reported(tmp_path: Path) -> None:
    embeddings = embedded(tmp_path / "e")
    built(embeddings, tmp_path / "i")
    before = (tmp_path / "i" / "index.json").read_bytes()
    assert built(embeddings, tmp_path / "i") == [
        f"{tmp_path}/i is an index of {tmp_path}/e already"
    ]
    assert (tmp_path / "i" / "index.json").read_bytes() == before
    built(embeddings, tmp_path / "j")
    for file in (tmp_path / "i").iterdir():
        assert file.read_bytes() == (tmp_path / "j" / file.name).read_bytes()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    embeddings = embedded(tmp_path / "e")
    built(embeddings, tmp_path / "i")
    with pytest.raises(UserError, match="is an index of other embeddings or settings"):
        built(embeddings, tmp_path / "i", memory=2 * MEMORY)
    with pytest.raises(UserError, match="exists and is no index"):
        built(embeddings, tmp_path)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="exists and is no index"):
        built(embeddings, tmp_path / "file")
    (tmp_path / "new.part").mkdir()
    (tmp_path / "new.part" / "mine").write_text("mine")
    with pytest.raises(UserError, match=r"new\.part is in the way"):
        built(embeddings, tmp_path / "new")
    assert (tmp_path / "new.part" / "mine").read_text() == "mine"


def test_what_a_killed_build_left_is_no_index_and_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings = embedded(tmp_path / "e")

    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("xmodal.search.build_index.write_atomically", kill)
        patch.setattr("xmodal.search.build_index.shutil.rmtree", lambda *_, **__: None)
        with pytest.raises(Killed):
            built(embeddings, tmp_path / "i")
    assert not (tmp_path / "i").exists()
    assert (tmp_path / "i.part" / "images.npy").exists()
    built(embeddings, tmp_path / "i")
    assert not (tmp_path / "i.part").exists()
    IndexFolder.open(tmp_path / "i")


def test_two_builds_do_not_write_into_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xmodal.runs.lock.SECONDS", 0)
    embeddings = embedded(tmp_path / "e")
    # Locks are a process's: another one has to keep it.
    script = f"""
import sys
from pathlib import Path
from xmodal.runs.lock import acquire_run_lock
file = acquire_run_lock(Path({str(tmp_path)!r}, "i.part"), "it")
print("locked", flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", script]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as other:  # type: ignore[call-overload]
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match=r"i\.part is in use by process"):
            built(embeddings, tmp_path / "i")
        other.communicate()
    built(embeddings, tmp_path / "i")
    assert {one.suffix for one in (tmp_path / "i").iterdir()} == {".npy", ".arrow", ".json"}


def test_wrong_embeddings_are_named(tmp_path: Path) -> None:
    def changed(folder: Path, **changes: object) -> Embeddings:
        info = EmbeddingsInfo.model_validate_json((folder / "embeddings.json").read_bytes())
        text = info.model_copy(update=changes).model_dump_json()
        (folder / "embeddings.json").write_text(text)
        return Embeddings(folder)

    embedded(tmp_path / "e")
    short = changed(tmp_path / "e", rows={"images": 21, "texts": 20})
    with pytest.raises(UserError, match=r"has 20 images where embeddings\.json says 21"):
        built(short, tmp_path / "i")
    with pytest.raises(UserError, match="has no images or texts to search"):
        built(changed(tmp_path / "e", rows={}), tmp_path / "i")
    bad = whole(4)
    bad[2, 3] = np.nan
    records = [image_record(str(n)) for n in range(4)]
    write_embeddings(tmp_path / "n", [(bad, records)])
    with pytest.raises(UserError, match="a vector of images of part 0 is not finite"):
        built(Embeddings(tmp_path / "n"), tmp_path / "i")
    assert {path.name for path in tmp_path.iterdir()} == {"e", "n"}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda i: (i / "index.json").write_text("{"), r"index\.json is damaged"),
        (lambda i: (i / "images.npy").write_bytes(b"x"), r"images\.npy is damaged"),
        (lambda i: (i / "images.arrow").write_bytes(b"x"), r"images\.arrow is damaged"),
        (lambda i: (i / "images.npy").unlink(), r"images\.npy is damaged"),
    ],
)
def test_damage_is_one_line(tmp_path: Path, damage: object, message: str) -> None:
    built(embedded(tmp_path / "e"), tmp_path / "i")
    damage(tmp_path / "i")  # type: ignore[operator]
    with pytest.raises(UserError, match=message):
        opened(tmp_path / "i")


def opened(path: Path) -> int:
    """Open a side whole; return its rows."""
    side = IndexFolder.open(path).side("images")
    return len(side.vectors) + len(side.metadata)


def test_indices_of_later_versions_are_refused(tmp_path: Path) -> None:
    built(embedded(tmp_path / "e"), tmp_path / "i")
    path = tmp_path / "i" / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 9}))
    with pytest.raises(UserError, match="is of version 9; this xmodal reads 1"):
        IndexFolder.open(tmp_path / "i")
