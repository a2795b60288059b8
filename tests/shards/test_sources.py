"""Each data set is found in its published layout, and what is missing from it is named."""

import hashlib
import io
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from shards.build import build
from shards.skipped import read_skipped
from shards.source import Item, Source, Split, find_source, source_names
from xmodal.data.decode import decode_image
from xmodal.data.manifest import read_manifest
from xmodal.data.reader import SampleReader
from xmodal.errors import UserError

Run = Callable[..., subprocess.CompletedProcess[str]]


def items(name: str, root: Path) -> dict[str, list[Item]]:
    return {split: list(make().items) for split, make in find_source(name).read(root, {}).items()}


def fails(name: str, root: Path) -> str:
    with pytest.raises(UserError) as caught:
        items(name, root)
    return str(caught.value)


def karpathy_image(split: str, filename: str, captions: int = 5, **more: object) -> dict:
    sentences = [{"raw": f" {filename} {n}. ", "tokens": [], "sentid": n} for n in range(captions)]
    return {"split": split, "filename": filename, "sentences": sentences, "imgid": 0, **more}


def write_karpathy(path: Path, *images: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"dataset": "x", "images": images}))


def png(path: Path, colour: str, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (30, 30), colour).save(path)


# -- what all sources have --


@pytest.mark.parametrize("name", source_names())
def test_every_source_says_what_it_is_and_what_it_expects(name: str, run: Run) -> None:
    source = find_source(name)
    assert source.summary.endswith(".")
    assert len(source.layout.splitlines()) > 3
    assert all(isinstance(value, int | float | str) for value in source.defaults.values())
    if not source.is_generator:
        assert f"`python -m shards sources {name}` prints the layout" in fails_anywhere(source)


def fails_anywhere(source: Source) -> str:
    with pytest.raises(UserError) as caught:
        source.read(Path(__file__).parent, {})
    return str(caught.value)


def test_sources_are_listed_with_their_layouts(run: Run) -> None:
    listed = run("sources").stdout
    for name in source_names():
        assert f"{name}: {find_source(name).summary}" in listed
        assert find_source(name).layout.splitlines()[0] in listed
    assert "options: seed=0" in listed
    assert run("sources", "coco").stdout.startswith("coco: MS COCO")
    assert "unknown source 'coc'" in run("sources", "coc", code=2).stderr


# -- what a split needs is required for it alone --


@pytest.mark.parametrize(
    ("split", "others"), [("test", ["train", "dev"]), ("val", ["train", "test"])]
)
def test_flickr8k_asks_for_the_list_of_the_split_alone(
    split: str, others: list[str], flickr8k: Path, tmp_path: Path
) -> None:
    shutil.copy(flickr8k / "Flickr_8k.devImages.txt", flickr8k / "Flickr_8k.testImages.txt")
    for other in others:
        (flickr8k / f"Flickr_8k.{other}Images.txt").unlink()
    build("flickr8k", tmp_path / "to", flickr8k, splits=[split])
    assert read_manifest(tmp_path / "to" / split).num_samples == 3
    if "train" in others:
        with pytest.raises(UserError, match=r"has no Flickr_8k.trainImages.txt"):
            build("flickr8k", tmp_path / "to", flickr8k)


def test_coco_asks_for_the_photographs_of_the_split_alone(tmp_path: Path) -> None:
    (tmp_path / "val2014").mkdir()
    write_karpathy(
        tmp_path / "dataset_coco.json",
        karpathy_image("train", "a.jpg", cocoid=1, filepath="train2014"),
        karpathy_image("test", "b.jpg", cocoid=2, filepath="val2014"),
    )
    splits = find_source("coco").read(tmp_path, {})
    assert [item.image_id for item in splits["test"]().items] == ["2"]
    with pytest.raises(UserError, match=r"no train2014 or images/train2014; `python -m shards"):
        splits["train"]()
    (tmp_path / "dataset_coco.json").unlink()
    for split in ("train", "val"):
        document = {"images": [], "annotations": []}
        path = tmp_path / f"annotations/captions_{split}2014.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(document))
    splits = find_source("coco").read(tmp_path, {})
    assert splits["val"]().items == []
    with pytest.raises(UserError, match="no train2014"):
        splits["train"]()


@pytest.mark.parametrize(
    ("source", "there", "split"),
    [
        ("cirr", ["img_raw/", "captions/cap.rc2.val.json", "image_splits/split.rc2.val.json"], 0),
        ("fashion_iq", ["images/", "captions/cap.shirt.val.json"], "val_shirt"),
        ("fashion_iq", ["images/", "image_splits/split.shirt.val.json"], "val_shirt_gallery"),
        (
            "fashion200k",
            [
                *("women/", "test_queries.txt"),
                *(f"labels/{name}_test_detect_all.txt" for name in
                  ("dress", "jacket", "pants", "skirt", "top")),
            ],
            "test",
        ),
        ("wikipedia", ["images/", "texts/", "testset_txt_img_cat.list"], "test"),
    ],
)  # fmt: skip
def test_other_sources_ask_for_the_files_of_the_split_alone(
    source: str, there: list[str], split: str, tmp_path: Path
) -> None:
    for name in there:
        path = tmp_path / name
        if name.endswith("/"):
            path.mkdir(parents=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text({".json": "{}" if "rc2.val" in name and "split" in name else "[]"}.get(
            path.suffix, ""))  # fmt: skip
    splits = find_source(source).read(tmp_path, {})
    assert splits[split or "val"]().items == []
    with pytest.raises(UserError, match=r"has no \S*train"):
        splits["train"]()


# -- Flickr8k --


def test_flickr8k_as_published(flickr8k: Path) -> None:
    found = items("flickr8k", flickr8k)
    assert list(found) == ["train", "val"]
    assert [len(split) for split in found.values()] == [12, 3]
    first = found["train"][0]
    assert first.image_id == "100_00"
    assert first.picture == flickr8k / "Flicker8k_Dataset/100_00.jpg"
    assert first.captions == [f"Sentence {n} about 100_00.jpg ." for n in range(5)]
    (flickr8k / "Flickr_8k.testImages.txt").write_bytes(b"100_00.jpg\r\n\r\n101_01.jpg")
    assert [item.image_id for item in items("flickr8k", flickr8k)["test"]] == ["100_00", "101_01"]


def test_flickr8k_prefers_karpathys_splits(flickr8k: Path) -> None:
    write_karpathy(
        flickr8k / "dataset_flickr8k.json",
        karpathy_image("train", "114_0e.jpg"),
        karpathy_image("test", "100_00.jpg"),
    )
    found = items("flickr8k", flickr8k)
    assert {split: [item.image_id for item in kept] for split, kept in found.items()} == {
        "train": ["114_0e"],
        "test": ["100_00"],
    }
    assert found["test"][0].captions[0] == "100_00.jpg 0."


CHINESE = [
    "100_00.jpg#zhc#0 一个穿着泳装的女人躺在海水里。",
    "100_00.jpg#zhc#1 她 在 海里",
    "101_01.jpg#zhc#0 一对恋人在公园河边拥抱。",
    "no_such.jpg#zhc#0 一群人在看金鱼。",
]


@pytest.mark.parametrize("karpathy", [False, True])
def test_flickr8k_with_chinese_sentences(flickr8k: Path, karpathy: bool) -> None:
    """The form of Flickr8k-CN, beside either form of the English ones."""
    (flickr8k / "cn.txt").write_text("\n".join(CHINESE) + "\n")
    (flickr8k / "de.token").write_text("100_00.jpg#0\tEine #1 Frau\n")
    if karpathy:
        images = [karpathy_image("train", name) for name in ("100_00.jpg", "101_01.jpg", "c.jpg")]
        write_karpathy(flickr8k / "dataset_flickr8k.json", *images)
    read = find_source("flickr8k").read(flickr8k, {"translations": "zh:cn.txt, de:de.token"})
    first, second, third = read["train"]().items[:3]
    assert first.record["zh"] == ["一个穿着泳装的女人躺在海水里。", "她 在 海里"]
    assert first.record["de"] == ["Eine #1 Frau"]
    assert second.record["zh"] == ["一对恋人在公园河边拥抱。"]
    assert {"de", "zh"}.isdisjoint(third.record)
    assert len(first.captions) == 5


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ("cn.txt", "translations=cn.txt: write CODE:FILE"),
        ("captions:cn.txt", "'captions' is no code of a language"),
        ("zh:missing.txt", "has no missing.txt"),
        ("zh:broken.txt", "has a line that is not NAME.jpg#0<TAB>caption: 'no name here'"),
    ],
)
def test_translations_that_cannot_be_read_are_one_line(
    given: str, fault: str, flickr8k: Path
) -> None:
    (flickr8k / "cn.txt").write_text(CHINESE[0])
    (flickr8k / "broken.txt").write_text("no name here\n")
    with pytest.raises(UserError) as error:
        find_source("flickr8k").read(flickr8k, {"translations": given})["train"]()
    assert fault in str(error.value)


@pytest.mark.parametrize(
    "name", ["Flickr8k.token.txt", "Flickr_8k.trainImages.txt", "Flickr_8k.devImages.txt"]
)
def test_what_flickr8k_lacks_is_named(name: str, flickr8k: Path, run: Run) -> None:
    (flickr8k / name).unlink()
    done = run("build", "flickr8k", "--from", flickr8k, "--to", flickr8k / "to", code=2)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {flickr8k} has no {name}")
    assert "; `python -m shards sources flickr8k` prints the layout" in line
    assert not (flickr8k / "to").exists()


def test_flickr8k_without_photographs(flickr8k: Path) -> None:
    (flickr8k / "Flicker8k_Dataset").rename(flickr8k / "Flickr8k_Dataset")
    assert f"{flickr8k} has no Flicker8k_Dataset; `python" in fails("flickr8k", flickr8k)


def test_captions_that_are_broken_are_named(flickr8k: Path) -> None:
    tokens = flickr8k / "Flickr8k.token.txt"
    good = tokens.read_bytes()
    tokens.write_bytes(good + b"a.jpg#0\tcaf\xe9\n")
    assert f"line 81 of {tokens} is not UTF-8" in fails("flickr8k", flickr8k)
    tokens.write_bytes(good + b"a.jpg#0 no tab\n")
    assert "a line that is not NAME.jpg#0<TAB>caption: 'a.jpg#0 no tab'" in fails(
        "flickr8k", flickr8k
    )
    (flickr8k / "dataset_flickr8k.json").write_text('{"images": [{"filename": "a.jpg"}]}')
    assert "is not one of Karpathy's splits (no 'split')" in fails("flickr8k", flickr8k)
    (flickr8k / "dataset_flickr8k.json").write_text('{"images": [')
    assert "is broken JSON" in fails("flickr8k", flickr8k)


# -- Flickr30k --


def test_flickr30k_from_the_token_file(tmp_path: Path) -> None:
    (tmp_path / "flickr30k-images").mkdir()
    lines = [
        f"{name}.jpg#{n}\tA man {n} ." for name in ("1000092795", "10002456") for n in range(5)
    ]
    (tmp_path / "results_20130124.token").write_text("\n".join(lines))
    found = items("flickr30k", tmp_path)
    assert list(found) == ["all"]
    assert found["all"][1].image_id == "10002456"
    assert found["all"][1].picture == tmp_path / "flickr30k-images/10002456.jpg"
    assert len(found["all"][1].captions) == 5


def test_flickr30k_from_karpathys_splits(tmp_path: Path) -> None:
    (tmp_path / "flickr30k-images").mkdir()
    (tmp_path / "results_20130124.token").write_text("1.jpg#0\tx")
    write_karpathy(
        tmp_path / "dataset_flickr30k.json",
        karpathy_image("train", "1.jpg"),
        karpathy_image("val", "2.jpg"),
        karpathy_image("test", "3.jpg"),
    )
    assert list(items("flickr30k", tmp_path)) == ["train", "val", "test"]


def test_a_caption_that_is_no_text_costs_itself(tmp_path: Path) -> None:
    png(tmp_path / "flickr30k-images/1.jpg", "red")
    png(tmp_path / "val2014/1.jpg", "red")
    image = karpathy_image("test", "1.jpg", 2)
    image["sentences"][0]["raw"] = None
    write_karpathy(tmp_path / "dataset_flickr30k.json", image)
    said = [{"image_id": 1, "caption": caption} for caption in (None, {"en": "x"}, " 1.jpg 1. ")]
    official = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": said}
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/captions_val2014.json").write_text(json.dumps(official))
    for name in ("flickr30k", "coco"):
        (folder,) = build(name, tmp_path / name, tmp_path).values()
        (sample,) = SampleReader(read_manifest(folder)).load([0])
        assert sample.captions() == ["1.jpg 1."]
        skipped = {cause for _, cause, _ in read_skipped(folder)}
        assert "caption is no text (but null)" in skipped


def test_flickr30k_without_captions(tmp_path: Path) -> None:
    (tmp_path / "flickr30k-images").mkdir()
    assert "has no results_20130124.token or dataset_flickr30k.json" in fails("flickr30k", tmp_path)


# -- COCO --


@pytest.mark.parametrize("images", [".", "images"])
def test_coco_from_karpathys_splits(images: str, tmp_path: Path) -> None:
    for folder in ("train2014", "val2014"):
        (tmp_path / images / folder).mkdir(parents=True)
    name = "COCO_val2014_000000391895.jpg"
    write_karpathy(
        tmp_path / "annotations/dataset_coco.json",
        karpathy_image("train", "COCO_train2014_000000000009.jpg", cocoid=9, filepath="train2014"),
        karpathy_image("restval", name, 7, cocoid=391895, filepath="val2014"),
        karpathy_image("val", name, 7, cocoid=391895, filepath="val2014"),
        karpathy_image("test", name, 6, cocoid=391896, filepath="val2014"),
    )
    found = items("coco", tmp_path)
    assert {split: [item.image_id for item in kept] for split, kept in found.items()} == {
        "train": ["9", "391895"],
        "val": ["391895"],
        "test": ["391896"],
    }
    assert found["val"][0].picture == tmp_path / images / "val2014" / name
    assert [len(found[split][-1].captions) for split in found] == [7, 5, 5]


@pytest.mark.parametrize("year", ["2014", "2017"])
def test_coco_from_the_official_captions(year: str, tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        (tmp_path / f"{split}{year}").mkdir()
        document = {
            "images": [{"id": 9, "file_name": "9.jpg"}, {"id": 7, "file_name": "7.jpg"}],
            "annotations": [
                {"id": n, "image_id": image, "caption": f"{image} {n}\n"}
                for n in range(6)
                for image in (7, 9)
            ],
        }
        path = tmp_path / f"annotations/captions_{split}{year}.json"
        path.write_text(json.dumps(document))
    found = items("coco", tmp_path)
    assert [item.image_id for item in found["val"]] == ["9", "7"]
    assert found["val"][1].captions == [f"7 {n}" for n in range(5)]
    assert len(found["train"][1].captions) == 6
    assert found["train"][0].picture == tmp_path / f"train{year}/9.jpg"


def test_what_coco_lacks_is_named(tmp_path: Path) -> None:
    assert "no dataset_coco.json or annotations/captions_train2014.json" in fails("coco", tmp_path)
    (tmp_path / "annotations").mkdir()
    captions = tmp_path / "annotations/captions_val2017.json"
    captions.write_text("{}")
    assert f"{tmp_path} has no val2017 or images/val2017; `python -m shards sources coco`" in fails(
        "coco", tmp_path
    )
    (tmp_path / "val2017").mkdir()
    assert "not in COCO's captions format (no 'annotations')" in fails("coco", tmp_path)


# -- Open Clip Art --

SVG = """<?xml version="1.0"?>
<svg xmlns="http://www.w3.org/2000/svg"><title>not this</title><metadata>
<rdf:RDF xmlns:cc="http://web.resource.org/cc/" xmlns:dc="http://purl.org/dc/elements/1.1/"
         xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<cc:Work rdf:about=""><dc:title>{title}</dc:title>
<dc:subject><rdf:Bag>{keywords}</rdf:Bag></dc:subject>
<dc:publisher><cc:Agent><dc:title>a person</dc:title></cc:Agent></dc:publisher>
<cc:license rdf:resource="{licence}"/></cc:Work></rdf:RDF></metadata></svg>"""
PUBLIC_DOMAIN = "http://web.resource.org/cc/PublicDomain"


@pytest.fixture
def openclipart(tmp_path: Path) -> Path:
    """The layout of the Debian packages, with one drawing of each kind of dirt."""

    def draw(place: str, title: str, *keywords: str, licence: str = PUBLIC_DOMAIN) -> None:
        colour = f"#{hashlib.md5(place.encode()).hexdigest()[:6]}"
        png(root / "png" / f"{place}.png", colour)
        words = "".join(f"<rdf:li>{word}</rdf:li>" for word in keywords)
        svg = root / "svg" / f"{place}.svg"
        svg.parent.mkdir(parents=True, exist_ok=True)
        svg.write_text(SVG.format(title=title, keywords=words, licence=licence))

    root = tmp_path / "usr/share/openclipart"
    draw("animals/mammals/cat_01", "House  cat", "animal", "", "four_legs", "hash(0x8a0a540)")
    draw("animals/mammals/dog_01", "dog")
    draw("food/gpl", "Cheese", licence="http://creativecommons.org/licenses/GPL/2.0/")
    draw("food/blank", "Bread", licence="")
    draw("food/other_tag", "Apple", licence="http://creativecommons.org/licenses/publicdomain/")
    draw("shapes/heart", "Heart")
    for place in ("shapes/stars/a", "buttons/b", "computer/icons/c", "logos/d", "special/e"):
        draw(place, "Thing")
    draw("animals/gramastar", "gramastar", "animal")
    draw("animals/flat", "Part of the Flat Icon Collection (Wed Aug 25 23:29:46 2004)")
    draw("animals/lemon", "Lemon SVG theme")
    draw("animals/untitled", "", "animal")
    draw("animals/zz_copy", "another cat")
    draw("animals/broken", "broken")
    (root / "svg/animals/broken.svg").write_text("<svg")
    (root / "svg/animals/lonely.svg").write_text("<svg/>")
    png(root / "png/animals/without_svg.png", "red")
    original = root / "png/animals/mammals/cat_01.png"
    (root / "png/animals/zz_copy.png").write_bytes(original.read_bytes())
    return tmp_path


def test_openclipart_is_cleaned(openclipart: Path) -> None:
    found = [item for split in items("openclipart", openclipart).values() for item in split]
    assert {item.image_id: (item.captions, item.labels) for item in found} == {
        "animals/mammals/cat_01": (["House cat: animal, four legs"], ["animals"]),
        "animals/mammals/dog_01": (["dog"], ["animals"]),
        "food/other_tag": (["Apple"], ["food"]),
        "shapes/heart": (["Heart"], ["shapes"]),
    }


def test_openclipart_needs_both_packages(openclipart: Path) -> None:
    (openclipart / "usr/share/openclipart/svg").rename(openclipart / "svg")
    assert "has no usr/share/openclipart/svg" in fails("openclipart", openclipart)


# -- Tux Paint --


@pytest.fixture
def tuxpaint(tmp_path: Path) -> Path:
    """The layout of the Debian package, with one stamp of each kind of dirt."""

    def stamp(place: str, text: str | None) -> None:
        path = tmp_path / "usr/share/tuxpaint/stamps" / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGBA", (30, 30), (0, 0, 0, 0))
        image.paste((200, 0, 0, 255), (10, 10, 20, 20))
        image.save(path)
        if text is not None:
            path.with_suffix(".txt").write_text(text)

    stamp("plants/flowers/rose", "A flower. \naf.utf8='n Blom.\nam.utf8=አበባ\n")
    stamp("plants/flowers/tulip", "a flower.")
    stamp("animals/frog", "A “green” frog.")
    stamp("symbols/alphabet/a", "The letter A.")
    stamp("vehicles/bus_mirror", None)
    (tmp_path / "usr/share/tuxpaint/stamps/animals/cow.svg").write_text("<svg/>")
    (tmp_path / "usr/share/tuxpaint/stamps/animals/cow.txt").write_text("A cow.")
    return tmp_path


def test_tuxpaint_takes_the_english_line(tuxpaint: Path) -> None:
    splits = {name: make() for name, make in find_source("tuxpaint").read(tuxpaint, {}).items()}
    found = {item.image_id: item for split in splits.values() for item in split.items}
    assert {name: (item.captions, item.labels) for name, item in found.items()} == {
        "animals/frog": (["A “green” frog."], ["animals"]),
        "plants/flowers/rose": (["A flower."], ["plants"]),
        "plants/flowers/tulip": (["a flower."], ["plants"]),
    }
    assert relevance_of(splits.values())["plants/flowers/rose"] == [
        ["plants/flowers/rose", "plants/flowers/tulip"]
    ]
    picture = found["animals/frog"].picture
    assert callable(picture)
    drawn = decode_image(picture())
    assert drawn[0, 0].tolist() == [255, 255, 255]
    assert drawn[15, 15].tolist() == [200, 0, 0]


def test_tuxpaint_in_further_languages(tuxpaint: Path) -> None:
    read = find_source("tuxpaint").read(tuxpaint, {"languages": "am,af,zh_CN"})
    found = {item.image_id: item for make in read.values() for item in make().items}
    rose = found["plants/flowers/rose"].record
    assert (rose["captions"], rose["am"], rose["af"]) == (["A flower."], ["አበባ"], ["'n Blom."])
    assert "zh_CN" not in rose
    assert found["animals/frog"].record.keys() == {"image_id", "captions", "labels"}


def relevance_of(splits: object) -> dict:
    relevance: dict = {}
    for split in splits:  # type: ignore[attr-defined]
        assert isinstance(split, Split)
        relevance |= split.relevance or {}
    return relevance


def test_relevance_knows_only_images_that_are_there(tuxpaint: Path, run: Run) -> None:
    splits = items("tuxpaint", tuxpaint)
    flowers = next(name for name, found in splits.items() if len(found) >= 2)
    (tuxpaint / "usr/share/tuxpaint/stamps/plants/flowers/rose.png").write_bytes(b"")
    run("build", "tuxpaint", "--from", tuxpaint, "--to", tuxpaint / "to", "--split", flowers)
    run("check", tuxpaint / "to" / flowers)
    relevance = read_manifest(tuxpaint / "to" / flowers).relevance
    assert relevance is not None
    assert relevance["plants/flowers/tulip"] == [["plants/flowers/tulip"]]
    assert "plants/flowers/rose" not in relevance


def test_tuxpaint_text_that_is_no_utf8(tuxpaint: Path) -> None:
    text = tuxpaint / "usr/share/tuxpaint/stamps/animals/frog.txt"
    text.write_bytes(b"A caf\xe9.\n")
    assert f"the first line of {text} is not UTF-8" in fails("tuxpaint", tuxpaint)


def test_pictures_travel_to_workers(tuxpaint: Path) -> None:
    import pickle

    for split in items("tuxpaint", tuxpaint).values():
        for item in split:
            picture = pickle.loads(pickle.dumps(item)).picture
            assert Image.open(io.BytesIO(picture())).size == (30, 30)
