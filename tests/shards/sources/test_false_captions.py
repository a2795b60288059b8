"""Winoground, SugarCrepe and ARO in their published layouts."""

import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.source import Item, Split, find_source
from shards.sources.sugarcrepe import CATEGORIES
from xmodal.data.manifest import read_manifest
from xmodal.data.reader import SampleReader
from xmodal.errors import UserError

Run = Callable[..., subprocess.CompletedProcess[str]]


def splits(source: str, root: Path) -> dict[str, Split]:
    return {name: make() for name, make in find_source(source).read(root, {}).items()}


def record(item: object) -> dict[str, object]:
    assert isinstance(item, Item)
    return item.record


@pytest.fixture
def winoground(tmp_path: Path, encode: Callable[..., bytes]) -> Path:
    folder = tmp_path / "winoground"
    folder.mkdir()
    (folder / "images").mkdir()
    lines = []
    for number in range(2):
        for side in (0, 1):
            picture = folder / f"images/ex_{number}_img_{side}.png"
            picture.write_bytes(encode("PNG", colour=f"hsl({number * 50 + side},90%,50%)"))
        example = {"id": number, "image_0": f"ex_{number}_img_0", "image_1": f"ex_{number}_img_1"}
        example |= {"caption_0": "an old person kisses a young person "}
        example |= {"caption_1": "a young person kisses an old person"}
        tags = {"tag": "Adjective-Age", "secondary_tag": "", "collapsed_tag": "Object"}
        lines.append(json.dumps(example | tags | {"num_main_preds": 1}))
    (folder / "examples.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_an_example_of_winoground_is_a_group_of_two(winoground: Path, run: Run) -> None:
    (split,) = splits("winoground", winoground).values()
    first, second, *others = split.items
    assert len(others) == 2
    captions = ["an old person kisses a young person", "a young person kisses an old person"]
    assert record(first) == {
        "image_id": "ex_0_img_0",
        "captions": captions[:1],
        "false_captions": [captions[1:]],
        "group": "0",
        "category": "Object",
    }
    assert record(second)["false_captions"] == [captions[:1]]
    run("build", "winoground", "--from", winoground, "--to", winoground / "to")
    assert "nothing is broken" in run("check", winoground / "to" / "test").stdout
    reader = SampleReader(read_manifest(str(winoground / "to" / "test")))
    assert [reader[n].false_captions() for n in range(2)] == [[captions[1:]], [captions[:1]]]


@pytest.fixture
def sugarcrepe(tmp_path: Path, encode: Callable[..., bytes]) -> Path:
    folder = tmp_path / "sugarcrepe"
    folder.mkdir()
    for name in ("data", "val2017"):
        (folder / name).mkdir()
    (folder / "val2017/000000085329.jpg").write_bytes(encode("JPEG"))
    for name in CATEGORIES:
        entry = {"filename": "000000085329.jpg", "caption": "A boy runs."}
        entries = {"0": entry | {"negative_caption": f"A girl runs: {name}."}}
        (folder / f"data/{name}.json").write_text(json.dumps(entries))
    return folder


def test_entries_of_sugarcrepe_keep_their_category(sugarcrepe: Path, run: Run) -> None:
    (split,) = splits("sugarcrepe", sugarcrepe).values()
    assert [record(item) for item in split.items] == [
        {
            "image_id": "000000085329",
            "captions": ["A boy runs."],
            "false_captions": [[f"A girl runs: {name}."]],
            "category": name,
        }
        for name in CATEGORIES
    ]
    run("build", "sugarcrepe", "--from", sugarcrepe, "--to", sugarcrepe / "to")
    run("check", sugarcrepe / "to" / "test")


def case_of_aro(number: int, **more: object) -> dict[str, object]:
    box = {"bbox_x": 3, "bbox_y": 5, "bbox_w": 10 + number, "bbox_h": 8}
    captions = {"true_caption": f"the {number} is in the grass", "false_caption": "the grass is in"}
    return {"image_id": f"{number}", "image_path": "7.jpg", **box, **captions, **more}


@pytest.fixture
def aro(tmp_path: Path) -> Path:
    folder = tmp_path / "aro"
    folder.mkdir()
    (folder / "images").mkdir()
    (folder / "val2014").mkdir()
    pixels = np.arange(3 * 40 * 30, dtype=np.uint8).reshape(30, 40, 3)
    Image.fromarray(pixels).save(folder / "images/7.jpg", "PNG")
    Image.fromarray(pixels).save(folder / "val2014/a.jpg", "JPEG")
    relations = [case_of_aro(n, relation_name="in") for n in range(2)]
    (folder / "visual_genome_relation.json").write_text(json.dumps(relations))
    pairs = [["white", "black"]] * 25 + [["tall", "green"]] * 24
    attributes = [case_of_aro(n, attributes=pair) for n, pair in enumerate(pairs)]
    (folder / "visual_genome_attribution.json").write_text(json.dumps(attributes))
    order = [{"image": "val2014/a.jpg", "caption_options": ["a b c", "b a c", "c b a", "a c b"]}]
    (folder / "coco_order.json").write_text(json.dumps(order))
    return folder


def test_boxes_and_orders_of_aro(aro: Path, run: Run) -> None:
    found = splits("aro", aro)
    assert list(found) == ["relation", "attribution", "coco_order"]
    first, second = found["relation"].items
    assert record(first) == {
        "image_id": "7/3,5,10,8",
        "captions": ["the 0 is in the grass"],
        "false_captions": [["the grass is in"]],
        "category": "in",
    }
    assert isinstance(second, Item)
    assert callable(second.picture)
    cut = np.asarray(Image.open(io.BytesIO(second.picture())))
    whole = np.asarray(Image.open(aro / "images/7.jpg"))
    assert np.array_equal(cut, whole[5:13, 3:14])
    # Pairs of attributes that are rarer than what is published count, but not by themselves.
    names = [record(item).get("category") for item in found["attribution"].items]
    assert names == ["white_black"] * 25 + [None] * 24
    (order,) = found["coco_order"].items
    assert record(order)["false_captions"] == [["b a c", "c b a", "a c b"]]
    run("build", "aro", "--from", aro, "--to", aro / "to")
    for name, count in (("relation", 2), ("attribution", 49), ("coco_order", 1)):
        run("check", aro / "to" / name)
        assert read_manifest(str(aro / "to" / name)).num_samples == count


@pytest.mark.parametrize(
    "box", [{"bbox_w": 0}, {"bbox_h": -4}, {"bbox_w": 10**9}, {"image_path": "../secret.jpg"}]
)
def test_boxes_that_cannot_be_cut_are_skipped(
    box: dict[str, object], aro: Path, run: Run, encode: Callable[..., bytes]
) -> None:
    (aro / "secret.jpg").write_bytes(encode("JPEG"))
    cases = [case_of_aro(0, relation_name="in"), case_of_aro(1, relation_name="in", **box)]
    (aro / "visual_genome_relation.json").write_text(json.dumps(cases))
    run("build", "aro", "--from", aro, "--to", aro / "to", "--split", "relation")
    assert read_manifest(str(aro / "to" / "relation")).num_samples == 1


def test_what_is_wrong_is_named(winoground: Path, sugarcrepe: Path, aro: Path) -> None:
    def fails(source: str, root: Path) -> str:
        with pytest.raises(UserError) as caught:
            splits(source, root)
        return str(caught.value)

    with (winoground / "examples.jsonl").open("a") as file:
        file.write('{"id": 3}\n')
    line = "examples.jsonl is not in Winoground's format (no 'caption_0')"
    assert f"line 3 of {winoground}/{line}" in fails("winoground", winoground)
    (sugarcrepe / "data/swap_obj.json").write_text('{"0": {"filename": "a.jpg"}}')
    assert "swap_obj.json is not in SugarCrepe's format (no 'caption')" in fails(
        "sugarcrepe", sugarcrepe
    )
    (aro / "visual_genome_relation.json").write_text('[{"attributes": ["a"]}]')
    assert "visual_genome_relation.json is not in ARO's format" in fails("aro", aro)
    for name in ("relation", "attribution"):
        (aro / f"visual_genome_{name}.json").unlink()
    (aro / "coco_order.json").unlink()
    assert "has no visual_genome_relation.json or visual_genome_attribution.json" in fails(
        "aro", aro
    )
