"""launch/index.py and launch/search.py, on embeddings that were made up and on those of a run."""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.commands import Done, embed, run, train
from tests.pretrained_models import write_clip
from tests.search.embedding_folders import image_record, write_embeddings
from xmodal.assembly.indexed_model import indexed_model
from xmodal.search.query import Query
from xmodal.search.searcher import Searcher

HOSTILE = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of forty pictures in a shard."""
    folder = tmp_path_factory.mktemp("search")
    records, shard = [], b""
    for number in range(40):
        file = io.BytesIO()
        Image.new("RGB", (32, 24), (6 * number, 0, 0)).save(file, "PNG")
        place = {"offset": len(shard), "size": file.tell()}
        shard += file.getvalue()
        label = "red" if number >= 20 else "dark"
        records.append(image_record(f"k{number}", caption=HOSTILE, labels=[label], **place))
    (folder / "000000.tar").write_bytes(shard)
    vectors = np.random.default_rng(0).normal(size=(40, 16)).astype(np.float32)
    write_embeddings(folder / "e", [(vectors, records)], shards=[str(folder / "000000.tar")])
    done = run("index.py", folder / "e", "--to", folder / "i")
    assert done.code == 0, done
    assert done.out.splitlines()[:1] == ["images: 40 rows of 16 numbers, exact search"]
    return folder / "i"


def search(index: Path, *words: object) -> Done:
    return run("search.py", index, "--page", index.parent / "page.html", *words)


def test_hits_are_a_table_and_a_page_with_pictures(index: Path) -> None:
    done = search(index, "--like", "k3", "-k", "5", "--where", "label = 'red'")
    assert done.code == 0, done
    rows = [line.split() for line in done.out.splitlines() if "000000.tar" in line]
    assert [row[0] for row in rows] == ["1", "2", "3", "4", "5"]
    assert all(int(row[2][1:]) >= 20 for row in rows)
    assert [line.strip() for line in done.out.splitlines()].count("red") == 5
    page = (index.parent / "page.html").read_text()
    assert page.count("data:image/jpeg") == 6  # the query's too
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page
    assert all(row[2] in page for row in rows)


def test_mistakes_are_one_line_before_the_search(index: Path) -> None:
    assert "unknown column lable (did you mean label" in search(
        index, "--like", "k3", "--where", "lable = 'red'"
    ).error.replace("labels", "label")
    assert "no image of the index has the key k99" in search(index, "--like", "k99").error
    assert "/runs/made, the model of the embeddings, is missing" in search(index, "a dog").error
    assert "search by one of" in search(index).error
    assert "search by one of" in search(index, "a", "--like", "b").error
    assert "--modification is of an image" in search(index, "a", "--modification", "b").error
    assert "there is no such file" in search(index, "--image", "missing.png").error
    other = run("search.py", index, "--like", "k3", "--page", index / "index.json")
    assert "exists and is no page of a search" in other.error
    other = run("search.py", index, "--like", "k3", "--page", index)
    assert f"--page {index} is no file; name one, such as {index}/search.html" in other.error
    done = run("index.py", index.parent / "e", "--to", index.parent)
    assert "exists and is no index" in done.error
    done = run("index.py", index.parent / "e", "--to", index, "--memory", "some")
    assert "--memory some is no size" in done.error
    done = run("index.py", index.parent / "e", "--to", "s3://bucket/index")
    assert "name a folder on a disk" in done.error
    done = run("index.py", index, "--to", index.parent / "j")
    assert "has no embeddings.json" in done.error
    assert "already" in run("index.py", index.parent / "e", "--to", index).out


def test_mistakes_before_a_page_is_served(index: Path) -> None:
    for words, line in (
        (["a dog", "--serve"], "--serve takes no query: the page asks for it"),
        (["--serve", "--where", "width > 1"], "--serve takes no query: the page asks for it"),
        (["--serve", "--port", "70000"], "--port 70000: a port is 0 to 65535"),
        (["a dog", "--port", "0"], "--port and --host are of --serve"),
        (["--serve", "--host", "192.0.2.1"], "--host 192.0.2.1 is no address of this machine"),
        (["--serve", "--port", "0"], "/runs/made, the model of the embeddings, is missing"),
    ):
        assert line in run("search.py", index, *words).error


@pytest.fixture(scope="module")
def index_of_run(embedded_tens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of the embeddings of a run."""
    target = tmp_path_factory.mktemp("run") / "index"
    assert run("index.py", embedded_tens, "--to", target, "--kind", "exact").code == 0
    return target


def test_texts_and_images_are_encoded_by_the_model_of_the_embeddings(
    finished: Path, index_of_run: Path, tmp_path: Path
) -> None:
    searcher = Searcher.open(index_of_run)
    picture = tmp_path / "query.png"
    picture.write_bytes(searcher.picture(7))
    record = searcher.record(7)
    done = search(index_of_run, "--image", picture, "-k", "3")
    assert done.code == 0, done
    first = next(line for line in done.out.splitlines() if ".tar" in line).split()
    assert [first[1], first[2], first[-1]] == ["1.0000", record["key"], record["shard"]]
    # Its caption, among captions, is as near as can be; the run may be named.
    words = ["--in", "texts", "-k", "1", "--model", finished]
    done = search(index_of_run, record["caption"], *words)
    assert done.code == 0, done
    assert " 1.0000 " in done.out
    composed = search(index_of_run, "--image", picture, "--modification", "in blue")
    assert "clip composes no queries" in composed.error


def test_another_model_is_refused(index_of_run: Path, tmp_path: Path) -> None:
    write_clip(tmp_path / "other")
    done = search(index_of_run, "a scene", "--model", tmp_path / "other")
    assert "other is not the model of the embeddings, or has changed since" in done.error
    missing = search(index_of_run, "a scene", "--model", tmp_path / "no")
    assert "no is no run folder" in missing.error


@pytest.mark.slow
@pytest.mark.parametrize("method", ["uncsm", "pvse"])
def test_hits_have_the_methods_own_score(
    given: Callable[[str], list[str]],
    scenes: Path,
    classes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    assert train(*given(method), f"run={tmp_path}/run").code == 0
    data = classes if method == "uncsm" else scenes
    words = ["--data", data / "val", "--to", tmp_path / "e", "--dtype", "float32"]
    assert embed(tmp_path / "run", *words).code == 0
    assert run("index.py", tmp_path / "e", "--to", tmp_path / "i").code == 0
    searcher = Searcher.open(tmp_path / "i")
    searcher.load_model = partial(indexed_model, searcher.info.model)
    model = indexed_model(searcher.info.model)
    images, texts = (searcher.sides[name].vectors for name in ("images", "texts"))
    expected = model.score(images[3:4], texts)[0]
    hits = searcher.search(Query(like=3), "texts", k=len(texts))
    assert [hit.score for hit in hits] == pytest.approx(
        expected.sort(descending=True).values.tolist(), abs=1e-5
    )
    assert [hit.score for hit in hits] == pytest.approx(
        expected[[hit.row for hit in hits]].tolist(), abs=1e-5
    )
    expected = model.score(images, texts[5:6])[:, 0]
    monkeypatch.setattr(model, "encode_texts", lambda _: texts[5:6])
    searcher.load_model = lambda: model
    searcher.__dict__.pop("model", None)
    hits = searcher.search(Query(text="any"), k=10)
    assert [hit.score for hit in hits] == pytest.approx(
        expected.sort(descending=True).values[:10].tolist(), abs=1e-5
    )
