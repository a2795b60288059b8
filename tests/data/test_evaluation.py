"""Batches for evaluation: every sample once with all captions; what is left out is named."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.shard_sets import Members, described, encode, numbered, plain, write_shards
from tests.training_sets import TOKENIZER, captions_of, npy, numbers_of
from xmodal.data.batch import Batch
from xmodal.data.evaluation import EvaluationBatch, EvaluationSet, evaluation_batches
from xmodal.data.manifest import Manifest
from xmodal.data.reader import SampleReader
from xmodal.data.samples import hash_id
from xmodal.data.transforms import ImageTransform
from xmodal.errors import UserError

COUNT = 50


def write_set(folder: Path, samples: dict[str, Members]) -> Manifest:
    items = list(samples.items())
    return write_shards(folder, [dict(items[:20]), dict(items[20:25]), dict(items[25:])])


def evaluation_set(manifest: Manifest) -> EvaluationSet:
    return EvaluationSet(SampleReader(manifest), ImageTransform(8), TOKENIZER)


def evaluated(
    manifest: Manifest, *chunks: Sequence[int], workers: int = 0
) -> list[EvaluationBatch]:
    return list(evaluation_batches(evaluation_set(manifest), chunks, workers=workers))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_set(tmp_path_factory.mktemp("set"), numbered(COUNT))


@pytest.mark.filterwarnings("error:This DataLoader")  # of more workers than cores
@pytest.mark.parametrize("workers", [0, 2, 500])
def test_every_sample_comes_once_with_all_captions(shards: Manifest, workers: int) -> None:
    chunks = [range(7), range(7, 30), range(30, COUNT)]
    for chunk, batch in zip(chunks, evaluated(shards, *chunks, workers=workers), strict=True):
        assert batch.numbers.tolist() == numbers_of(batch.images) == list(chunk)
        assert batch.captions == [f"{number} {c}" for number in chunk for c in range(3)]
        assert batch.owners.tolist() == [row for row in range(len(chunk)) for _ in range(3)]
        assert captions_of(batch.texts) == batch.captions
        assert batch.images.image_ids.tolist() == [hash_id(f"i{number}") for number in chunk]
        assert batch.texts.images is None
        assert batch.images.tokens is None
        assert batch.faults == ()


def test_images_have_as_many_captions_as_they_have(tmp_path: Path) -> None:
    samples = {
        f"{n}": {"png": encode(plain(n)), "json": described([f"{n} {c}" for c in range(n)])}
        for n in range(1, 5)
    }
    (batch,) = evaluated(write_shards(tmp_path, [samples]), range(4))
    assert batch.owners.tolist() == [0, 1, 1, 2, 2, 2, 3, 3, 3, 3]
    assert [int(caption[0]) - 1 for caption in captions_of(batch.texts)] == batch.owners.tolist()


def test_labels_are_those_of_the_samples(tmp_path: Path) -> None:
    labels = {"a": {"labels": ["x", "y z"]}, "b": {}, "c": {"labels": []}, "d": {"labels": ["x"]}}
    samples = {
        key: {"png": encode(plain(1)), "json": described(["1"], **more)}
        for key, more in labels.items()
    }
    (batch,) = evaluated(write_shards(tmp_path, [samples]), range(4))
    assert batch.labels == [["x", "y z"], [], [], ["x"]]


@pytest.mark.parametrize(
    ("labels", "kept", "causes"),
    [
        ("x", ["x"], []),
        (None, [], []),
        ([1], ["1"], []),
        ({"x": 1}, [], ["label is no text or whole number (but an object)"]),
        (["x", None], ["x"], ["label is missing"]),
    ],
)
def test_a_label_that_is_none_is_dropped_and_counted(
    tmp_path: Path, labels: object, kept: list[str], causes: list[str]
) -> None:
    samples = numbered(3)
    samples["00001"] = samples["00001"] | {"json": described(["1"], labels=labels)}
    (batch,) = evaluated(write_shards(tmp_path, [samples]), range(3))
    assert batch.numbers.tolist() == [0, 1, 2]
    assert batch.labels == [[], kept, []]
    assert [fault.cause for fault in batch.faults] == causes
    assert all(fault.partial for fault in batch.faults)


def test_a_caption_that_is_none_costs_itself_and_its_row(tmp_path: Path) -> None:
    said = described(["1 0", " ", "1 2", 3])
    rows = npy(np.array([[1, row] for row in range(4)], np.float32))
    words, features = numbered(3), featured(3, captions=True, image=False)
    words["00001"] = words["00001"] | {"json": said}
    features["00001"] = features["00001"] | {"json": said, "text.npy": rows}
    for name, samples in (("words", words), ("features", features)):
        (batch,) = evaluated(write_shards(tmp_path / name, [samples]), range(3))
        assert batch.owners.tolist().count(1) == 2
        assert [one for one in batch.captions if one[0] == "1"] == ["1 0", "1 2"]
        assert [(fault.key, fault.cause, fault.partial) for fault in batch.faults] == [
            ("00001", "caption is empty", True),
            ("00001", "caption is no text (but a number)", True),
        ]
    assert batch.texts.text_features.tolist()[2:4] == [[1, 0], [1, 2]]


def test_the_central_square_is_seen(tmp_path: Path) -> None:
    pixels = np.concatenate([plain(1, (8, 4)), plain(2, (8, 8)), plain(3, (8, 4))], axis=1)
    manifest = write_shards(tmp_path, [{"a": {"png": encode(pixels), "txt": b"x"}}])
    (batch,) = evaluated(manifest, range(1))
    assert np.array_equal(batch.images.images[0].permute(1, 2, 0), plain(2))


@pytest.mark.parametrize("workers", [0, 1])
def test_what_cannot_be_read_is_left_out_and_named(tmp_path: Path, workers: int) -> None:
    samples = numbered(COUNT)
    samples["00001"] = samples["00001"] | {"png": b"not an image"}
    samples["00040"] = samples["00040"] | {"json": described([])}
    samples["00041"] = samples["00041"] | {"png": b""}
    manifest = write_set(tmp_path, samples)
    first, second = evaluated(manifest, range(3), range(40, 42), workers=workers)
    assert first.numbers.tolist() == numbers_of(first.images) == [0, 2]
    assert first.owners.tolist() == [0, 0, 0, 1, 1, 1]
    assert [str(fault) for fault in first.faults] == [
        f"{manifest.shards[0].url}, 00001: image does not decode (not an image)"
    ]
    assert second.numbers.tolist() == []
    assert [(fault.key, fault.cause) for fault in second.faults] == [
        ("00040", "no caption: expected captions in its json, or a txt"),
        ("00041", "png is empty"),
    ]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_goes_away_is_one_line(tmp_path: Path, workers: int) -> None:
    manifest = write_set(tmp_path, numbered(COUNT))
    Path(manifest.shards[0].url).unlink()
    found = evaluation_batches(evaluation_set(manifest), [range(2)], workers=workers)
    with pytest.raises(UserError, match=r"^shard \S*000000\.tar cannot be read: [^\n]*$"):
        next(found)


@pytest.mark.parametrize("features", [False, True])
def test_images_to_be_found_need_no_captions(tmp_path: Path, features: bool) -> None:
    def image(n: int) -> Members:
        of = {"image.npy": npy(np.full(3, n))} if features else {"png": encode(plain(n))}
        return of | {"json": described([] if n % 2 else ["1", "2"], image_id=f"i{n}", labels=["a"])}

    manifest = write_shards(tmp_path, [{f"{n}": image(n) for n in range(5)}])
    dataset = EvaluationSet(SampleReader(manifest), ImageTransform(8), TOKENIZER, captions=False)
    for batch in evaluation_batches(dataset, [range(3), range(3, 5)], workers=0):
        numbers = batch.numbers.tolist()
        assert batch.faults == ()
        assert batch.images.image_ids.tolist() == [hash_id(f"i{n}") for n in numbers]
        assert batch.labels == [["a"]] * len(numbers)
        if features:
            assert batch.images.image_features.tolist() == [[n] * 3 for n in numbers]
        else:
            assert numbers_of(batch.images) == numbers
        assert batch.captions == batch.owners.tolist() == []
        assert batch.texts == Batch()


# Features.


def featured(count: int, *, captions: bool, image: bool = True, text: bool = True) -> dict:
    """Features that say the number, of two captions each."""
    samples = {}
    for n in range(count):
        record = {"captions": [f"{n} 0", f"{n} 1"]} if captions else {}
        samples[f"{n:05d}"] = {
            "json": described(**record, image_id=f"i{n}") if captions else b"{}",
            **({"image.npy": npy(np.full(3, n, np.float32))} if image else {}),
            **({} if image else {"png": encode(plain(n))}),
            **({"text.npy": npy(np.array([[n, 0], [n, 1]], np.float32))} if text else {}),
        }
    return samples


@pytest.mark.parametrize("captions", [True, False])
@pytest.mark.parametrize(("image", "text"), [(True, True), (True, False), (False, True)])
def test_features_stand_in_for_either_side(
    tmp_path: Path, image: bool, text: bool, captions: bool
) -> None:
    if not (text or captions):
        return
    manifest = write_set(tmp_path, featured(30, captions=captions, image=image, text=text))
    first, second = evaluated(manifest, range(4), range(24, 30))
    for chunk, batch in ((range(4), first), (range(24, 30), second)):
        assert batch.faults == ()
        assert batch.numbers.tolist() == list(chunk)
        assert batch.owners.tolist() == [row for row in range(len(chunk)) for _ in range(2)]
        if image:
            assert batch.images.images is None
            assert batch.images.image_features.tolist() == [[number] * 3 for number in chunk]
        else:
            assert numbers_of(batch.images) == list(chunk)
        if text:
            assert batch.texts.tokens is None
            assert batch.texts.text_features.tolist() == [[n, c] for n in chunk for c in range(2)]
        else:
            assert batch.texts.text_features is None
            assert captions_of(batch.texts) == batch.captions
        expected = [f"{n} {c}" if captions else "" for n in chunk for c in range(2)]
        assert batch.captions == expected
        assert len(set(batch.images.image_ids.tolist())) == len(chunk)


@pytest.mark.parametrize(
    ("members", "cause"),
    [
        ({"image.npy": npy(np.zeros(4))}, "features of another shape than the first sample's"),
        ({"text.npy": npy(np.zeros((2, 9)))}, "features of another shape than the first sample's"),
        ({"image.npy": npy(np.array([np.nan] * 3))}, "image.npy has values that are not finite"),
        ({"text.npy": npy(np.zeros((3, 2)))}, "text.npy has not a row for each caption"),
        (
            {"json": described(["0 0", "", "0 1", "2 2"])},
            "text.npy has not a row for each caption",
        ),
    ],
)
def test_features_that_do_not_fit_are_left_out(
    tmp_path: Path, members: Members, cause: str
) -> None:
    """Wherever in a batch, or alone in it."""
    samples = featured(30, captions=True)
    samples["00021"] = samples["00021"] | members
    manifest = write_set(tmp_path, samples)
    for chunk in (range(20, 23), range(21, 23), range(21, 22)):
        (batch,) = evaluated(manifest, chunk)
        assert batch.numbers.tolist() == [number for number in chunk if number != 21]
        assert [(fault.key, fault.cause) for fault in batch.faults] == [("00021", cause)]


@pytest.mark.parametrize("side", ["image", "text"])
def test_a_sample_without_the_features_of_its_set_is_left_out(tmp_path: Path, side: str) -> None:
    samples = featured(30, captions=True)
    samples["00021"] = {
        **{name: data for name, data in samples["00021"].items() if name != f"{side}.npy"},
        "png": encode(plain(21)),
    }
    manifest = write_set(tmp_path, samples)
    for chunk in (range(20, 23), range(21, 22)):
        (batch,) = evaluated(manifest, chunk)
        assert batch.numbers.tolist() == [number for number in chunk if number != 21]
        assert [fault.cause for fault in batch.faults] == ["no features, which its data set has"]


def test_an_image_among_features_and_features_among_images(tmp_path: Path) -> None:
    samples = numbered(30)
    samples["00021"] = samples["00021"] | {"image.npy": npy(np.zeros(3))}
    (batch,) = evaluated(write_set(tmp_path, samples), range(20, 23))
    assert batch.numbers.tolist() == numbers_of(batch.images) == [20, 21, 22]
