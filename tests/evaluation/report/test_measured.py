"""Names of the folders that results are kept apart in, and what may be written into them."""

import json
import os
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from xmodal.errors import UserError
from xmodal.evaluation.report.measured import Measured, ShardSet, identity, place
from xmodal.evaluation.report.results import check_folder, read_results, write_results

DATA = ShardSet("data/flickr8k/val", "f1", 1000)
MEASURED = Measured("step-24", "w1", DATA, None, ["relevance"], ["a {}"], 4, 5)
OTHERS = {
    "checkpoint": replace(MEASURED, checkpoint="step-2"),
    "weights": replace(MEASURED, weights="w2"),
    "url": replace(MEASURED, data=replace(DATA, url="data/flickr8k/test")),
    "data": replace(MEASURED, data=replace(DATA, fingerprint="f2")),
    "gallery": replace(MEASURED, gallery=DATA),
    "protocols": replace(MEASURED, protocols=["relevance", "gap"]),
    "templates": replace(MEASURED, templates=["b {}"]),
    "all_pairs": replace(MEASURED, all_pairs=3),
    "shortlist": replace(MEASURED, shortlist=6),
    "class names": replace(MEASURED, class_names="d1"),
    "probe_train": replace(MEASURED, probe_train=DATA),
}


def test_a_name_is_readable_and_one_of_each_measurement() -> None:
    assert re.fullmatch(r"flickr8k-val-step-24-[0-9a-f]{12}", MEASURED.name)
    names = {one.name for one in (MEASURED, *OTHERS.values())}
    assert len(names) == 1 + len(OTHERS)
    # Case is not all that tells two apart: some file systems do not know it.
    assert len({name.lower() for name in names}) == len(names)


@given(st.text(), st.text())
@example("/", "//")
@example("..", "data/../..")
@example("s3://bucket/a b/$(touch x)", "a/b\n\0")
@example("дата/вал", "a" * 5000)
def test_any_url_makes_a_name_for_any_file_system(url: str, other: str) -> None:
    one, two = (
        replace(MEASURED, data=ShardSet(each.replace("\0", ""), "f", 1)) for each in (url, other)
    )
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{1,99}", one.name)
    assert (one.name == two.name) == (place(one.data.url) == place(two.data.url))


@pytest.mark.parametrize(
    "url", ["data/flickr8k/val/", "./data/flickr8k/val", Path.cwd() / DATA.url]
)
def test_one_place_in_other_words_is_the_same(url: str | Path) -> None:
    assert replace(MEASURED, data=replace(DATA, url=str(url))).name == MEASURED.name


def write(folder: Path, measured: Measured = MEASURED) -> None:
    write_results(folder, "run", {"gap/pairs": 2.0}, [], measured, recipe="", history=[])


def test_results_are_read_back_with_what_they_are_of(tmp_path: Path) -> None:
    write(tmp_path / "new")
    metrics, measured = read_results(tmp_path / "new")
    assert metrics == {"gap/pairs": 2.0}
    assert measured is not None
    assert identity(measured) == MEASURED.identity()
    assert measured == asdict(MEASURED)
    (tmp_path / "results.json").write_text('{"gap/pairs": 3.0}')  # of an earlier version
    assert read_results(tmp_path) == ({"gap/pairs": 3.0}, None)


@pytest.mark.parametrize("text", ["", "[1]", "null", "{", "\xff", '{"measured": 3}'])
def test_what_is_no_results_file_has_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_bytes(text.encode("latin-1"))
    assert read_results(tmp_path) == ({}, None)
    with pytest.raises(UserError, match="holds other files; name another folder: --output DIR"):
        check_folder(tmp_path, MEASURED)


@pytest.mark.parametrize("other", OTHERS)
def test_a_folder_takes_the_same_measurement_alone(other: str, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    check_folder(folder, MEASURED)
    write(folder)
    check_folder(folder, MEASURED)
    with pytest.raises(UserError, match="holds results of something else"):
        check_folder(folder, OTHERS[other])


def test_what_a_killed_evaluation_left_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "results.json.part").touch()
    check_folder(tmp_path, MEASURED)


def test_a_description_by_another_version_is_of_something_else(tmp_path: Path) -> None:
    write(tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    results["measured"]["precision"] = "bf16"
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(UserError, match="holds results of something else"):
        check_folder(tmp_path, MEASURED)


def test_a_folder_that_cannot_be_written_in_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Permissions hold nobody back who runs the tests as root.
    monkeypatch.setattr(os, "access", lambda path, _: path != tmp_path)
    with pytest.raises(UserError, match=f"^{tmp_path} cannot be written in; name another folder"):
        check_folder(tmp_path / "new" / "folder", MEASURED)
