"""Near duplicates and leakage: what was planted is found, and nothing else."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from tests.search.curation.sets import made_set, scenes, unit, write_pictures
from xmodal.data.duplicates import read_duplicates
from xmodal.data.samples import hash_id
from xmodal.errors import UserError
from xmodal.search.curation.alike import Pairs, Rule, background, find_alike
from xmodal.search.curation.duplicates import duplicates, group_pairs
from xmodal.search.curation.leakage import leakage
from xmodal.search.curation.tasks import curate, open_set

RULE = {"rule": "pictures", "similarity": None}


def changed(data: bytes, how: str) -> bytes:
    image = Image.open(io.BytesIO(data))
    if how == "mirrored":
        image = ImageOps.mirror(image)
    if how == "cropped":
        width, height = image.size
        image = image.crop((2, 1, 2 + round(0.95 * width), 1 + round(0.95 * height)))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=50)
    return file.getvalue()


def damage(shards: Path, part: bytes) -> None:
    for tar in shards.glob("*.tar"):
        tar.write_bytes(tar.read_bytes().replace(part, bytes(len(part))))


def test_planted_duplicates_are_found(tmp_path: Path) -> None:
    pictures = scenes(40)
    planted = {40: (3, "re-encoded"), 41: (3, "mirrored"), 42: (7, "cropped"), 43: (20, "mirrored")}
    pictures += [changed(pictures[source], how) for source, how in planted.values()]
    folder = write_pictures(tmp_path, pictures)
    curate("duplicates", {**RULE, "embeddings": str(folder)}, tmp_path / "curated")
    rows = pq.read_table(tmp_path / "curated" / "groups.parquet").to_pylist()
    groups = [(row["group"], int(row["key"][1:])) for row in rows]
    assert groups == [(0, 3), (0, 40), (0, 41), (1, 7), (1, 42), (2, 20), (2, 43)]
    pairs = pq.read_table(tmp_path / "curated" / "pairs.parquet").to_pylist()
    mirrored = {(row["key"], row["other_key"]) for row in pairs if row["mirrored"]}
    assert {("k3", "k41"), ("k20", "k43")} <= mirrored
    keep = pq.read_table(tmp_path / "curated" / "keep.parquet")
    assert keep.column_names == ["shard", "key"]
    assert set(keep["shard"].to_pylist()) == {"set-000000.tar"}
    removed = {f"k{row}" for row in range(44)} - {*keep["key"].to_pylist()}
    assert len(removed) == 4
    assert {row["key"] for row in rows if not row["kept"]} == removed
    page = (tmp_path / "curated" / "report.html").read_text()
    assert page.count("data:image/jpeg") == 7
    record = json.loads((tmp_path / "curated" / "curation.json").read_text())
    assert record["found"]["groups"] == "3"
    assert not (tmp_path / "curated" / "work").exists()
    ids = read_duplicates(str(tmp_path / "curated" / "groups.parquet"))
    of_groups = [ids[hash_id(row["image_id"])] for row in rows]
    assert [of_groups.index(one) for one in of_groups] == [0, 0, 0, 3, 3, 5, 5]


def test_of_a_group_the_largest_image_is_kept(tmp_path: Path) -> None:
    vectors = np.repeat(unit(3, 8), 3, 0)
    searcher = made_set(
        tmp_path,
        vectors,
        width=[5, 9, 9, 5, 5, 5, 5, 5, 5],
        height=[5] * 9,
        size=[10, 10, 10, 10, 30, 20, 7, 7, 7],
    )
    outcome = duplicates(searcher, Rule("embeddings", 0.999), tmp_path)
    assert np.flatnonzero(outcome.kept).tolist() == [1, 4, 6]  # pixels, bytes, the first


def test_leaked_images_are_found_and_removed(tmp_path: Path) -> None:
    train, test = scenes(30), scenes(10, seed=5)
    test[4], test[6] = changed(train[11], "cropped"), changed(train[2], "mirrored")
    train.append(changed(train[2], "re-encoded"))
    folders = [write_pictures(tmp_path / name, of) for name, of in (("a", train), ("b", test))]
    sets = [open_set(str(folder), folder.parent / "set") for folder in folders]
    outcome = leakage(*sets, Rule(), tmp_path)
    pairs = outcome.tables["pairs"].select(["test_key", "key"]).to_pylist()
    assert [(row["test_key"], row["key"]) for row in pairs] == [
        ("k4", "k11"),
        ("k6", "k2"),
        ("k6", "k30"),
    ]
    assert np.flatnonzero(~outcome.kept).tolist() == [2, 11, 30]
    assert [one.title for one in outcome.sections] == ["Test image k4", "Test image k6"]
    notes = [figure.note for one in outcome.sections for figure in one.figures]
    assert [note.partition(": sim")[0] for note in notes] == ["test", "train"] * 2 + ["train"]
    assert all(re.search(r"larity \d\.\d{3}, correlation 0\.\d{3}", notes[n]) for n in (1, 3, 4))
    assert [note.endswith(", mirrored") for note in notes] == [False, False, False, True, True]


def test_leakage_compares_embeddings_of_one_model(tmp_path: Path) -> None:
    sets = [made_set(tmp_path / name, unit(3, 4), digest=name) for name in ("a", "b")]
    with pytest.raises(UserError, match="embedded with one model"):
        leakage(*sets, Rule("embeddings", 0.9), tmp_path)


def test_the_rule_of_embeddings_reads_no_image(tmp_path: Path) -> None:
    vectors = unit(30, 8)
    vectors[[4, 9]] = vectors[2]
    alike = find_alike(made_set(tmp_path, vectors), None, Rule("embeddings", 0.9999), tmp_path)
    naive = {(i, j) for i, j in np.argwhere(vectors @ vectors.T >= 0.9999).tolist() if i < j}
    assert {*zip(alike.pairs.first.tolist(), alike.pairs.second.tolist(), strict=True)} == naive
    assert naive == {(2, 4), (2, 9), (4, 9)}


def test_damaged_images_are_counted(tmp_path: Path) -> None:
    pictures = scenes(20)
    folder = write_pictures(tmp_path, pictures + pictures)
    damage(folder.parent / "shards", pictures[19][-600:])
    outcome = duplicates(open_set(str(folder), tmp_path / "set"), Rule(), tmp_path)
    assert outcome.numbers["images that could not be read"] == "2"
    assert outcome.numbers["groups"] == "19"
    for one in pictures[10:19]:
        damage(folder.parent / "shards", one[-600:])
    with pytest.raises(UserError, match=r"20 of 40 images of .* cannot be read: build .* --rule"):
        duplicates(open_set(str(folder), tmp_path / "again"), Rule(), tmp_path)


def test_images_whose_shards_are_gone_are_an_error(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path, [*scenes(2), *scenes(2)])
    for tar in (tmp_path / "shards").glob("*.tar"):
        tar.unlink()
    with pytest.raises(UserError, match=r"\.tar is missing.*put the shards back, or .* --rule"):
        duplicates(open_set(str(folder), tmp_path / "set"), Rule(), tmp_path)


def test_the_background_is_that_of_random_pairs(tmp_path: Path) -> None:
    vectors = made_set(tmp_path, unit(400, 16)).sides["images"].vectors
    scores = (vectors @ vectors.T)[~np.eye(400, dtype=bool)]
    assert background(vectors, vectors) == pytest.approx(float(scores.mean() + 2 * scores.std()))
    assert background(vectors[:1], vectors[:1]) == 0.7
    assert background(vectors[[0] * 9], vectors[[0] * 9]) == 0.7  # copies


def test_groups_are_what_pairs_connect() -> None:
    first, second = np.array([5, 1, 8, 2]), np.array([6, 8, 9, 4])
    pairs = Pairs(first, second, *np.zeros((3, 4)))
    assert [group.tolist() for group in group_pairs(pairs, 12)] == [[1, 8, 9], [2, 4], [5, 6]]
    none = np.zeros(0, np.int64)
    assert group_pairs(Pairs(none, none, none, none, none), 5) == []
