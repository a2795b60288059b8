"""The layout of embeddings: what is written is read again, and by what reads clip-retrieval's."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.search.embedding_folders import image_record, write_embeddings
from xmodal.data.batch import Fault
from xmodal.data.storage import open_storage
from xmodal.errors import UserError
from xmodal.search.embeddings import INFO, Embeddings, finished_parts
from xmodal.search.part_files import ROW_GROUP, read_summary, write_part


def made(rows: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, *shape)).astype(np.float32)


def records(rows: int, part: int = 0) -> list[dict[str, Any]]:
    return [image_record(f"{part}-{n}", number=n) for n in range(rows)]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    parts = [(made(5, 4), records(5)), (made(0, 4), []), (made(3, 4, seed=1), records(3, 2))]
    folder = Embeddings(write_embeddings(tmp_path / "new" / "made", parts))
    assert folder.num_rows() == folder.num_rows("texts") == 8
    assert folder.num_rows("queries") == 0
    assert [part.shard for part in folder] == [f"/data/made/{n:06d}.tar" for n in range(3)]
    for part, (vectors, rows) in zip(folder, parts, strict=True):
        assert (part.vectors("images") == vectors).all()
        assert (part.vectors("texts") == -vectors).all()
        assert isinstance(part.vectors("images"), np.memmap) or not len(vectors)
        assert part.metadata().to_pylist() == rows
        said = [{"row": n, "caption": row["caption"]} for n, row in enumerate(rows)]
        assert part.captions().to_pylist() == said
    columns = folder.parts[0].metadata(["key", "shard"]).to_pylist()
    assert columns[4] == {"key": "0-4", "shard": "000000.tar"}


def test_several_embeddings_an_item_are_rows(tmp_path: Path) -> None:
    vectors = made(6, 3, 4)
    folder = Embeddings(write_embeddings(tmp_path, [(vectors, records(6))], dtype="float16"))
    assert (folder.info.embeddings_per_item, folder.info.dim) == (3, 4)
    read = folder.parts[0].vectors()
    assert (read.shape, read.dtype) == ((18, 4), np.float16)
    assert (read.reshape(6, 3, 4) == vectors.astype(np.float16)).all()


def test_its_files_are_those_of_clip_retrieval(tmp_path: Path) -> None:
    write_embeddings(tmp_path, [(made(5, 4), records(5))] * 2, dtype="float16")
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*"))
    assert names == [
        *(f"img_emb/img_emb_{n:04d}.npy" for n in range(2)),
        *(f"metadata/metadata_{n:04d}.parquet" for n in range(2)),
        *(f"text_emb/text_emb_{n:04d}.npy" for n in range(2)),
        *(f"text_metadata/text_metadata_{n:04d}.parquet" for n in range(2)),
    ]
    for number in range(2):
        vectors = np.load(tmp_path / f"img_emb/img_emb_{number:04d}.npy", allow_pickle=False)
        table = pq.read_table(tmp_path / f"metadata/metadata_{number:04d}.parquet")
        assert (vectors.ndim, vectors.dtype, len(vectors)) == (2, np.float16, len(table))


def test_rows_are_written_as_they_come(tmp_path: Path) -> None:
    """A table of many rows is written by groups, and is the same in whatever portions they come."""
    rows = records(ROW_GROUP + 10)
    vectors = made(len(rows), 2)
    for name, portion in (("all", len(rows)), ("few", 7)):
        folder = write_embeddings(tmp_path / name, [(vectors[:1], rows[:1])], texts=False)
        info = Embeddings(folder).info
        with write_part(str(folder), 0, info, "s", open_storage("")) as part:
            for at in range(0, len(rows), portion):
                part.add("images", vectors[at : at + portion], rows[at : at + portion])
    for file in ("metadata/metadata_0000.parquet", "img_emb/img_emb_0000.npy"):
        assert (tmp_path / "all" / file).read_bytes() == (tmp_path / "few" / file).read_bytes()
    found = pq.ParquetFile(tmp_path / "few" / "metadata" / "metadata_0000.parquet")
    assert found.num_row_groups == 2
    assert found.read().to_pylist() == rows


def test_an_interrupted_part_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_embeddings(tmp_path, [(made(2, 4), records(2))])
    info, storage = Embeddings(folder).info, open_storage("")
    with (
        pytest.raises(AssertionError, match="2 vectors, 3 records"),
        write_part(str(folder), 1, info, "s", storage) as part,
    ):
        part.add("images", made(2, 4), records(3))
    assert not capsys.readouterr().err
    assert finished_parts(str(folder), storage) == {0}
    assert not [path for path in folder.rglob("*") if "0001" in path.name]


def test_metadata_come_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed: list[str] = []
    replace = Path.replace

    def noted(self: Path, target: str) -> Path:
        renamed.append(Path(target).name)
        return replace(self, target)

    folder = write_embeddings(tmp_path, [(made(2, 4), records(2))])
    info, storage = Embeddings(folder).info, open_storage("")
    monkeypatch.setattr(Path, "replace", noted)
    with write_part(str(folder), 1, info, "s", storage) as part:
        part.add_faults([Fault("a.tar", "x", "image does not decode (truncated)")])
    assert renamed[-1] == "metadata_0001.parquet"
    assert len(renamed) == 5


def test_bad_samples_are_named_and_counted(tmp_path: Path) -> None:
    folder = write_embeddings(tmp_path, [(made(1, 4), records(1))])
    info, storage = Embeddings(folder).info, open_storage("")
    cause, caption = "image does not decode (truncated)", "a caption is no text"
    with write_part(str(folder), 0, info, "s", storage) as part:
        part.add("images", made(1, 4), records(1))
        part.add_faults([Fault("a.tar", "x", cause), Fault("a.tar", "y\udcff", cause)])
        part.add_faults([Fault("a.tar", "z", caption, partial=True)])
        part.summary.samples += 1
    lines = (folder / "faults" / "faults_0000.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"shard": "a.tar", "key": "x", "cause": cause},
        {"shard": "a.tar", "key": "y\udcff", "cause": cause},
        {"shard": "a.tar", "key": "z", "cause": caption, "partial": True},
    ]
    summary = read_summary(str(folder), 0, storage)
    assert (summary.model, summary.shard, summary.samples) == ("m", "s", 1)
    assert summary.rows == {"images": 1, "texts": 0}
    assert (summary.faults, summary.dropped) == ({cause: 2}, {caption: 1})


def test_folders_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing has no embeddings\.json"):
        Embeddings(tmp_path / "nothing")
    folder = write_embeddings(tmp_path / "made", [(made(2, 4), records(2))])
    written = json.loads((folder / INFO).read_text())

    def rewrite(**values: object) -> None:
        (folder / INFO).write_text(json.dumps(written | values))

    rewrite(samples=None)
    with pytest.raises(UserError, match="is not finished: rerun"):
        Embeddings(folder)
    rewrite(version=99)
    with pytest.raises(UserError, match="is of version 99"):
        Embeddings(folder)
    rewrite(dim="many")
    with pytest.raises(UserError, match="is damaged"):
        Embeddings(folder)
    rewrite(dim=8)
    with pytest.raises(UserError, match=r"holds float32 of shape \(2, 4\)"):
        Embeddings(folder).parts[0].vectors()
    rewrite()
    (folder / "img_emb" / "img_emb_0000.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(UserError, match=r"img_emb_0000\.npy is damaged"):
        Embeddings(folder).parts[0].vectors()
    (folder / "metadata" / "metadata_0000.parquet").unlink()
    with pytest.raises(UserError, match=r"metadata_0000\.parquet is missing"):
        Embeddings(folder).parts[0].metadata()
