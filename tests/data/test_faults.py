"""Each kind of bad data, put into a shard set: counted by cause, and nobody else is moved."""

import io
import os
import pickle
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.commands import train
from tests.shard_sets import Members, described, encode, numbered, plain, write_shards
from tests.training_sets import (
    BATCH,
    batches,
    captions_of,
    npy,
    numbers_of,
    training_set,
)
from xmodal.data.batch import Batch, Fault
from xmodal.data.manifest import Manifest, read_manifest, write_manifest
from xmodal.data.samples import hash_id
from xmodal.data.shard_index import write_index
from xmodal.data.training_set import TrainingSet
from xmodal.errors import UserError
from xmodal.runs.run import Run

COUNT, EPOCH = 60, range(5)


def in_shards(folder: Path, samples: dict[str, Members]) -> Manifest:
    items = list(samples.items())
    return write_shards(folder, [dict(items[:20]), dict(items[20:25]), dict(items[25:])])


def texts() -> dict[str, Members]:
    """Images whose caption is in a text file; their ids are those of their places."""
    return {
        key: {"png": members["png"], "txt": f"{int(key)} 0".encode()}
        for key, members in numbered(COUNT).items()
    }


def features() -> dict[str, Members]:
    """Features of an image, and of one caption, that say the number."""
    return {
        f"{n:05d}": {
            "json": described([f"{n} 0"], image_id=f"i{n}"),
            "image.npy": npy(np.full(3, n, np.float32)),
            "text.npy": npy(np.full((1, 2), n, np.float32)),
        }
        for n in range(COUNT)
    }


def shown(batch: Batch) -> list[int]:
    """The numbers of the samples in a batch's rows, by either side's content."""
    if batch.image_features is None:
        return numbers_of(batch)
    assert batch.text_features[:, 0].equal(batch.image_features[:, 0])
    return batch.image_features[:, 0].int().tolist()


def assert_replaced(whole: Manifest, broken: Manifest, bad: Sequence[int]) -> list[Fault]:
    """Over an epoch the bad samples' rows alone are others: their nearest good neighbours'.

    Returns the faults, in the order of the bad samples' positions.
    """
    expected, dataset = batches(training_set(whole), EPOCH), training_set(broken)
    found = batches(dataset, EPOCH)
    faults = []
    for step, (one, other) in enumerate(zip(expected, found, strict=True)):
        assert one.faults == ()
        wanted = shown(one)
        replaced = [row for row, number in enumerate(wanted) if number in bad]
        kept = torch.tensor([row not in replaced for row in range(BATCH)])
        for row in replaced:
            wanted[row] = nearest(dataset, step * BATCH + row, bad)
        assert shown(other) == wanted
        for name, value in vars(one).items():
            if isinstance(value, Tensor) and name not in ("tokens", "token_mask"):
                assert value[kept].equal(getattr(other, name)[kept]), name
        if one.tokens is not None:
            before, after = captions_of(one), captions_of(other)
            assert [before[row] for row in kept.nonzero()] == [after[row] for row in kept.nonzero()]
            # A repeat carries what it repeats, its id too: it is never its own negative.
            assert [int(caption.split()[0]) for caption in after] == wanted
        ids = {hash_id(id_of(broken, number)): number for number in range(COUNT)}
        assert [ids[one] for one in other.image_ids.tolist()] == wanted
        assert len(other.faults) == len(replaced)
        faults += other.faults
    assert len(faults) == len(bad)
    places = [number for one in expected for number in shown(one)]
    keys = {number: one.key for number, one in enumerate(all_samples(broken))}
    by_place = sorted(bad, key=places.index)
    assert [fault.key for fault in faults] == [keys[number] for number in by_place]
    return faults


def all_samples(manifest: Manifest) -> list:
    return [sample for shard in manifest.shards for sample in manifest.index(shard)]


def id_of(manifest: Manifest, number: int) -> str:
    if "txt" not in all_samples(manifest)[0].members:
        return f"i{number}"
    for shard in manifest.shards:
        if number < shard.num_samples:
            return f"{shard.url}/{manifest.index(shard)[number].key}"
        number -= shard.num_samples
    raise IndexError(number)


def nearest(dataset: TrainingSet, position: int, bad: Sequence[int]) -> int:
    around = [place.sample for place in dataset.mixture.neighbours(position, 8)]
    return next(number for number in around if number not in bad)


CUT_JPEG = encode(plain(1, (40, 40)), "JPEG")[:-60]
BOMB = encode(plain(1), "JPEG").replace(
    b"\xff\xc0\x00\x11\x08\x00\x08\x00\x08", b"\xff\xc0\x00\x11\x08\xea\x60\xea\x60"
)
JSON = {"json": described(["c"])}
PNG = {"png": encode(plain(7))}

IN_IMAGES: dict[str, tuple[Members, str]] = {
    "text named jpg": (JSON | {"jpg": b"404: not found"}, "image does not decode (not an image)"),
    "cut image": (JSON | {"jpg": CUT_JPEG}, "image does not decode (truncated)"),
    "cut PNG": (JSON | {"png": encode(plain(7))[:50]}, "image does not decode (truncated)"),
    "zero bytes": (JSON | {"jpg": b""}, "jpg is empty"),
    "no image": (JSON, "no image: expected a member jpg, jpeg, png, webp"),
    "bomb": (JSON | {"jpg": BOMB}, "image is too large (over 89,478,485 pixels)"),
    "no caption": (PNG, "no caption: expected captions in its json, or a txt"),
    "no caption in the JSON": (
        PNG | {"json": b"{}"},
        "no caption: expected captions in its json, or a txt",
    ),
    "empty caption": (PNG | {"json": described([""])}, "caption is empty"),
    "not UTF-8": (PNG | {"json": b'{"captions": ["\xff"]}'}, "caption in its json is not UTF-8"),
    "a megabyte": (
        PNG | {"json": described(["x" * 2**20])},
        "caption is over 10,000 characters",
    ),
    "wrong type": (
        PNG | {"json": described({"a": 1})},
        "caption is no text (but an object)",
    ),
    "a list": (PNG | {"json": b"[1]"}, "json is not an object"),
    "no JSON": (PNG | {"json": b"{"}, "json does not parse"),
    "empty JSON": (PNG | {"json": b""}, "json is empty"),
    "features": ({"json": described(["c"]), "image.npy": npy(np.zeros(3))}, "no image: expected"),
}


@pytest.mark.parametrize("name", IN_IMAGES)
def test_a_bad_sample_of_images_is_told_and_moves_nobody(tmp_path: Path, name: str) -> None:
    members, cause = IN_IMAGES[name]
    samples = numbered(COUNT)
    whole = in_shards(tmp_path / "whole", samples)
    bad = [22, 41]
    broken = in_shards(tmp_path / "broken", samples | {f"{n:05d}": members for n in bad})
    faults = assert_replaced(whole, broken, bad)
    assert all(fault.cause.startswith(cause) for fault in faults)
    assert {fault.shard for fault in faults} == {broken.shards[1].url, broken.shards[2].url}
    assert not any(fault.by_choice for fault in faults)


class Trap:
    """What touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


NO_ARRAY = "image.npy is no array of numbers in NumPy's format 1, or is truncated"
IN_FEATURES: dict[str, tuple[Members, str]] = {
    "cut": ({"image.npy": npy(np.zeros(3))[:-1]}, NO_ARRAY),
    "text": ({"image.npy": b"404: not found"}, NO_ARRAY),
    "zero bytes": ({"text.npy": b""}, "text.npy is empty"),
    "NaN": ({"image.npy": npy(np.array([0, np.nan, 0]))}, "image.npy has values that are not fin"),
    "other shape": (
        {"image.npy": npy(np.zeros(4))},
        "features of another shape than the first sample's",
    ),
    "other shape of a caption": (
        {"text.npy": npy(np.zeros((1, 3)))},
        "features of another shape than the first sample's",
    ),
    "no rows": ({"text.npy": npy(np.zeros(2))}, "text.npy has no row a caption"),
}


@pytest.mark.parametrize("name", IN_FEATURES)
def test_a_bad_sample_of_features_is_told_and_moves_nobody(tmp_path: Path, name: str) -> None:
    members, cause = IN_FEATURES[name]
    samples = features()
    whole = in_shards(tmp_path / "whole", samples)
    broken = in_shards(tmp_path / "broken", samples | {"00022": samples["00022"] | members})
    (fault,) = assert_replaced(whole, broken, [22])
    assert fault.cause.startswith(cause)


def test_features_that_are_missing_are_told(tmp_path: Path) -> None:
    samples = features()
    whole = in_shards(tmp_path / "whole", samples)
    del samples["00022"]["text.npy"]
    del samples["00041"]["image.npy"]
    faults = assert_replaced(whole, in_shards(tmp_path / "broken", samples), [22, 41])
    assert {fault.key: fault.cause for fault in faults} == {
        "00022": "no features, which its data set has",
        "00041": "no image: expected a member jpg, jpeg, png, webp",
    }


@pytest.mark.parametrize("workers", [0, 1])
def test_no_pickle_is_loaded(tmp_path: Path, workers: int) -> None:
    trap = Trap(tmp_path / "sprung")
    pickled = pickle.dumps(trap)
    array = npy(np.array([trap] * 3, dtype=object), allow_pickle=True)
    samples = features()
    for n, data in enumerate([pickled, array], start=22):
        samples[f"{n:05d}"] = {"image.npy": data, "text.npy": data, "json": data, "txt": data}
    for n, extension in enumerate(["pyd", "pickle", "pkl", "pth", "pt"], start=30):
        samples[f"{n:05d}"] = samples[f"{n:05d}"] | {extension: pickled}
    found = batches(training_set(in_shards(tmp_path / "set", samples)), EPOCH, workers=workers)
    faults = [fault for batch in found for fault in batch.faults]
    causes = {fault.key: fault.cause.removeprefix("text.npy") for fault in faults}
    assert causes == dict.fromkeys(("00022", "00023"), NO_ARRAY.removeprefix("image.npy"))
    assert not trap.path.exists()
    pickle.loads(pickled)
    assert trap.path.exists()  # it does spring


def test_a_png_named_jpg_decodes(tmp_path: Path) -> None:
    samples = numbered(COUNT)
    whole = in_shards(tmp_path / "whole", samples)
    for n in (22, 41):
        members = dict(samples[f"{n:05d}"])
        samples[f"{n:05d}"] = {"jpg": members.pop("png"), **members}
    assert assert_replaced(whole, in_shards(tmp_path / "named", samples), []) == []


def test_all_kinds_at_once_are_counted_by_cause(tmp_path: Path) -> None:
    samples = numbered(COUNT)
    whole = in_shards(tmp_path / "whole", samples)
    bad = range(30, 30 + len(IN_IMAGES))
    for n, (members, _) in zip(bad, IN_IMAGES.values(), strict=True):
        samples[f"{n:05d}"] = members
    faults = assert_replaced(whole, in_shards(tmp_path / "broken", samples), bad)
    counts = Counter(fault.cause for fault in faults)
    assert counts.total() == len(IN_IMAGES)
    assert counts["image does not decode (truncated)"] == 2
    assert counts["no caption: expected captions in its json, or a txt"] == 2


# What is wrong with a tar.


def test_a_tar_that_is_cut_after_its_index_was_made(tmp_path: Path) -> None:
    """All samples beyond the cut are bad; of the one that it goes through, too."""
    whole = in_shards(tmp_path / "whole", numbered(COUNT))
    broken = in_shards(tmp_path / "broken", numbered(COUNT))
    third = broken.shards[2]
    offset, size = broken.index(third)[30].members["json"]
    os.truncate(third.url, offset + size - 1)
    broken = read_manifest(tmp_path / "broken")
    (warning,) = broken.warnings
    assert warning.startswith(f"shard {third.url} is truncated: {offset + size - 1:,} of ")
    faults = assert_replaced(whole, broken, range(55, 60))
    assert {fault.key: fault.cause for fault in faults} == {"00055": "json is truncated"} | {
        f"{n:05d}": faults[-1].cause for n in range(56, 60)
    }
    assert all(fault.cause.endswith("is truncated") for fault in faults)


def test_a_tar_that_is_cut_while_it_is_read(tmp_path: Path) -> None:
    whole = in_shards(tmp_path / "whole", numbered(COUNT))
    broken = in_shards(tmp_path / "broken", numbered(COUNT))
    offset = broken.index(broken.shards[2])[30].members["png"][0]
    os.truncate(broken.shards[2].url, offset)
    faults = assert_replaced(whole, broken, range(55, 60))
    assert {fault.cause for fault in faults} == {"json is truncated"}


def test_a_cut_that_takes_whole_lanes_is_replaced_from_those_beside(tmp_path: Path) -> None:
    """With few lanes a shard is longer than a lane's neighbours reach."""
    samples = list(numbered(120).items())
    manifest = write_shards(tmp_path, [dict(samples[:40]), dict(samples[40:])])
    offset = manifest.index(manifest.shards[0])[1].members["png"][0]
    os.truncate(manifest.shards[0].url, offset)
    dataset = training_set(read_manifest(tmp_path), lanes=6, window=8)
    found = batches(dataset, range(10))
    faults = [fault.key for batch in found for fault in batch.faults]
    assert sorted(faults) == [f"{n:05d}" for n in range(1, 40)]
    assert not set(range(1, 40)) & {number for batch in found for number in numbers_of(batch)}


@pytest.mark.parametrize("how", ["header", "cut"])
def test_a_broken_tar_has_what_stands_before_the_break(tmp_path: Path, how: str) -> None:
    manifest = write_shards(tmp_path, [numbered(10)])
    url = manifest.shards[0].url
    offset = manifest.index(manifest.shards[0])[6].members["png"][0]
    if how == "cut":
        os.truncate(url, offset)
    else:
        with Path(url).open("r+b") as tar:
            tar.seek(offset - 512)
            tar.write(b"\xff" * 512)
    indexed = write_index(url)
    assert indexed.num_samples == 5  # of the one right before it, files may be missing
    assert indexed.fault
    write_manifest(tmp_path, {Path(url).name: indexed.num_samples})
    found = batches(training_set(read_manifest(tmp_path)), range(3))
    assert {number for batch in found for number in numbers_of(batch)} == set(range(5))
    assert all(batch.faults == () for batch in found)


def with_names(path: Path, rename: Callable[[str], str]) -> None:
    """Write a tar anew with other names, and its indices."""
    with tarfile.open(path) as tar:
        files = [(info.name, tar.extractfile(info).read()) for info in tar]
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            info = tarfile.TarInfo(rename(name))
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    shards = read_manifest(path.parent).shards
    write_index(path)
    write_manifest(path.parent, {Path(one.url).name: one.num_samples for one in shards})


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ("00022", "00020", "key comes twice in its shard"),
        ("00021", "00020", "key comes twice in its shard"),
        ("00022", "../00022", "`..` in its path"),
        ("00022", "a/../../00022", "`..` in its path"),
    ],
)
def test_names_that_may_not_be_are_told(tmp_path: Path, old: str, new: str, cause: str) -> None:
    whole = in_shards(tmp_path / "whole", numbered(COUNT))
    broken = in_shards(tmp_path / "broken", numbered(COUNT))
    with_names(Path(broken.shards[1].url), lambda name: name.replace(old, new))
    broken = read_manifest(tmp_path / "broken")
    assert broken.num_samples == COUNT
    (fault,) = assert_replaced(whole, broken, [int(old)])
    assert (fault.key, fault.cause) == (new, cause)


def test_what_stands_in_a_text_file_is_replaced_with_its_id(tmp_path: Path) -> None:
    """Where samples have no id of their own, the place is the id."""
    folder = tmp_path / "set"
    whole = in_shards(folder, texts())
    expected = [(numbers_of(one), captions_of(one)) for one in batches(training_set(whole), EPOCH)]
    samples = texts()
    samples["00022"] = samples["00022"] | {"txt": b" \n"}
    broken = in_shards(folder, samples)
    place = next(p for p in range(COUNT) if training_set(broken).mixture.sample_at(p).sample == 22)
    for step, (batch, (numbers, captions)) in enumerate(
        zip(batches(training_set(broken), EPOCH), expected, strict=True)
    ):
        if step == place // BATCH:
            (fault,) = batch.faults
            assert fault.cause == "caption is empty"
            near = nearest(training_set(broken), place, [22])
            numbers[place % BATCH], captions[place % BATCH] = near, f"{near} 0"
        assert numbers_of(batch) == numbers
        assert captions_of(batch) == captions
        assert batch.image_ids.tolist() == [hash_id(id_of(broken, number)) for number in numbers]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_nearest_good_neighbour_takes_the_place(tmp_path: Path, workers: int) -> None:
    mixture = training_set(in_shards(tmp_path / "whole", numbered(COUNT))).mixture
    position = 19
    around = [place.sample for place in mixture.neighbours(position, 3)]
    bad = {mixture.sample_at(position).sample, *around[:3]}
    samples = numbered(COUNT) | {f"{n:05d}": JSON | {"jpg": b""} for n in bad}
    dataset = training_set(in_shards(tmp_path / "broken", samples))
    found = batches(dataset, EPOCH, workers=workers)
    assert numbers_of(found[position // BATCH])[position % BATCH] == around[3]
    # Of neighbours that are bad nothing is said until it is their own turn.
    keys = Counter(fault.key for batch in found for fault in batch.faults)
    assert keys == {f"{n:05d}": 1 for n in bad}


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_good_around_stops_with_one_line(tmp_path: Path, workers: int) -> None:
    samples = numbered(COUNT) | {f"{n:05d}": JSON | {"jpg": b"text"} for n in range(1, COUNT)}
    dataset = training_set(in_shards(tmp_path, samples), lanes=3)
    with pytest.raises(UserError) as caught:
        batches(dataset, EPOCH, workers=workers)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"{tmp_path}/set-00000")
    assert "image does not decode (not an image); and none of its " in line
    assert line.endswith(
        "neighbours can be read either; run `python -m shards check` on the shards"
    )
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_sample_alone_in_its_lane_is_filled_from_the_lanes_beside(
    tmp_path: Path, workers: int
) -> None:
    samples = numbered(COUNT) | {"00022": JSON | {"jpg": b""}}
    dataset = training_set(in_shards(tmp_path, samples), lanes=120)
    found = batches(dataset, range(3), size=120, workers=workers)
    numbers = Counter(number for batch in found for number in numbers_of(batch))
    assert set(numbers) == set(range(COUNT)) - {22}
    assert sum(len(batch.faults) for batch in found) == numbers.total() // COUNT == 6


# Whole runs.


def test_a_run_counts_faults_by_cause_and_stops_above_its_limit(tmp_path: Path) -> None:
    """Half of 480 samples are bad by two causes, of which nothing is said after the twentieth."""
    samples = numbered(480)
    for n in range(0, 480, 4):
        samples[f"{n:05d}"] = JSON | {"jpg": b"text"}
        samples[f"{n + 1:05d}"] = samples[f"{n + 1:05d}"] | {"json": described([])}
    write_shards(tmp_path / "set", [samples])
    done = train(recipe_of(tmp_path, "max_bad_share: 0.2"))
    # A share is that of at least 1,000 samples, lest the first bad one stop a run.
    found = re.fullmatch(
        r"(\d+) of (\d+) samples cannot be read \((.*)\), the last (\S+), (\d{5}): (.*); run "
        r"`python -m shards check` on the shards or raise data.max_bad_share",
        done.error,
    )
    assert found, done
    count, seen, causes = int(found[1]), int(found[2]), found[3]
    assert 200 < count <= 200 + BATCH
    assert seen == pytest.approx(2 * count, rel=0.2)
    counts = dict(cause.rsplit(": ", 1) for cause in re.split(r"(?<=\d), ", causes))
    empty = "no caption: expected captions in its json, or a txt"
    assert set(counts) == {"image does not decode (not an image)", empty}
    assert sum(map(int, counts.values())) == count
    assert min(map(int, counts.values())) > count * 0.4
    assert done.out.count("bad sample, a neighbour takes its place: ") == 20
    assert done.out.count("further bad samples are counted (bad_samples) but not named") == 1


def test_what_a_recipe_leaves_out_stops_no_run(tmp_path: Path) -> None:
    samples = numbered(240)
    for n in range(0, 240, 2):
        samples[f"{n:05d}"] = samples[f"{n:05d}"] | {"png": encode(plain(n, (8, 5)))}
    samples["00001"] = JSON | {"jpg": b"text"}
    write_shards(tmp_path / "set", [samples])
    done = train(recipe_of(tmp_path, "max_bad_share: 0.002", "min_side: 6"))
    assert done.code == 0, done.err
    last = Run(tmp_path / "run").history()[-1]
    assert (last["skipped"], last["bad_samples"]) == (240, 2)
    assert done.out.count("bad sample, a neighbour takes its place: ") == 2
    assert "too small" not in done.out + done.err


def recipe_of(folder: Path, data: str, data_set: str = "min_side: 1") -> Path:
    """Two epochs of a set of 240, or one of 480, on a very small method."""
    path = folder / "recipe.yaml"
    path.write_text(f"""
run: {folder}/run
data:
  train: [{{url: {folder}/set, {data_set}}}]
  {data}
  batch_size: {BATCH}
  workers: 2
method:
  kind: clip
  image:
    kind: timm
    name: vit_tiny_patch16_224
    size: 16
    options: {{patch_size: 8, embed_dim: 16, depth: 1, num_heads: 2}}
  text:
    kind: transformer
    tokenizer: {{kind: byte_pair, vocabulary: 300}}
    width: 16
    layers: 1
    heads: 2
  embedding: 8
stages: [{{length: {480 // BATCH} steps}}]
training: {{log_every: 1}}
""")
    return path
