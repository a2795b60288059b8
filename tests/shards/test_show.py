"""The contact sheet shows samples as they are: images, captions, and what is broken."""

import io
import json
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Run = Callable[..., subprocess.CompletedProcess[str]]
COLOURS = ["red", "green", "blue", "yellow", "purple", "orange"]


def flat(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (80, 60), colour).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def colours_of(path: Path) -> dict[str, tuple[int, int]]:
    """Where each colour is on the sheet: the middle of its pixels, (x, y)."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    found = {}
    for colour in COLOURS:
        at = np.argwhere(
            (pixels == np.array(Image.new("RGB", (1, 1), colour).getpixel((0, 0)))).all(2)
        )
        if len(at) > 1000:
            y, x = at.mean(0)
            found[colour] = (round(x), round(y))
    return found


@pytest.fixture
def plain(tmp_path: Path, run: Run) -> Path:
    """Six samples in two shards, each an image of one colour."""
    for shard in range(2):
        files = {}
        for number in range(3):
            colour = COLOURS[3 * shard + number]
            files[f"{number}.png"] = flat(colour)
            files[f"{number}.json"] = json.dumps({"captions": [f"all {colour}"] * 5}).encode()
        write_tar(tmp_path / f"{shard}.tar", files)
    run("index", tmp_path)
    return tmp_path


def test_samples_are_drawn_in_rows_of_four(plain: Path, run: Run) -> None:
    done = run("show", plain)
    assert f"6 of 6 samples drawn in {plain / 'contact_sheet.png'}" in done.stdout
    places = colours_of(plain / "contact_sheet.png")
    assert list(places) == COLOURS
    rows = sorted({y for _, y in places.values()})
    assert [sum(y == row for _, y in places.values()) for row in rows] == [4, 2]
    assert [places[colour][0] for colour in COLOURS[:4]] == sorted(
        places[c][0] for c in COLOURS[:4]
    )


def test_a_few_samples_are_spread_over_all_shards(plain: Path, run: Run) -> None:
    run("show", plain, "-n", 2, "--to", plain / "two.png")
    assert list(colours_of(plain / "two.png")) == ["red", "yellow"]


def test_captions_are_drawn_below(plain: Path, run: Run) -> None:
    run("show", plain, "-n", 1, "--to", plain / "one.png")
    sheet = np.asarray(Image.open(plain / "one.png").convert("L"))
    below = sheet[16 + 240 :]
    assert (below < 60).sum() > 200
    assert (below.min(1) < 60).sum() > 5 * 6  # five lines of text


def test_compositions_go_from_source_to_target(tmp_path: Path, run: Run) -> None:
    record = {"modification": "make it blue", "source_id": "1", "target_id": "2"}
    files = {"0.json": json.dumps(record).encode()}
    write_tar(
        tmp_path / "0.tar", files | {"0.source.png": flat("red"), "0.target.png": flat("blue")}
    )
    run("index", tmp_path)
    run("show", tmp_path)
    sheet = Image.open(tmp_path / "contact_sheet.png").convert("L")
    places = colours_of(tmp_path / "contact_sheet.png")
    (source_x, source_y), (target_x, target_y) = places["red"], places["blue"]
    assert source_y == target_y
    assert target_x - source_x == 2 * (240 + 16)
    between = np.asarray(sheet)[:, source_x + 130 : target_x - 130]
    assert (between < 60).sum() > 200


def test_features_are_a_grey_cell(tmp_path: Path, run: Run) -> None:
    files = {"0.image.npy": b"?", "0.txt": b"a dog", "1.image.npy": b"?", "1.png": flat("red")}
    write_tar(tmp_path / "0.tar", files)
    run("index", tmp_path)
    run("show", tmp_path)
    assert list(colours_of(tmp_path / "contact_sheet.png")) == ["red"]
    left = Image.open(tmp_path / "contact_sheet.png").crop((16, 16, 256, 256))
    assert dict(map(reversed, left.getcolors(9999)))[(211, 211, 211)] > 50_000  # type: ignore


def test_what_is_broken_is_drawn_as_such(tmp_path: Path, run: Run) -> None:
    files = {"0.jpg": b"no image", "0.txt": b"caf\xe9", "1.txt": b"x " * 3000, "2.png": flat("red")}
    write_tar(tmp_path / "0.tar", files)
    run("index", tmp_path)
    run("show", tmp_path)
    assert list(colours_of(tmp_path / "contact_sheet.png")) == ["red"]


def test_shards_without_an_index_say_what_to_run(tmp_path: Path, run: Run) -> None:
    write_tar(tmp_path / "0.tar", {"0.jpg": b""})
    done = run("show", tmp_path, code=2)
    assert f"run `python -m shards index {tmp_path}`" in done.stderr


def test_a_sheet_that_cannot_be_written_is_an_error(plain: Path, run: Run) -> None:
    done = run("show", plain, "--to", plain / "no/x.png", code=2)
    assert "name a file in a folder that is there" in done.stderr
    run("show", plain, "--to", plain / "sheet")
    assert Image.open(plain / "sheet").format == "PNG"
