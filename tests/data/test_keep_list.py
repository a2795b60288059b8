"""Keep-lists: the view that they make of a manifest is that of a rebuilt shard set."""

import tarfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.keep_lists import Named, rebuild, shard_name, write_keep_list
from tests.services.s3 import Gateway
from tests.shard_sets import numbered, write_shards
from tests.training_sets import assert_same, batches, mixture_of, numbers_of, training_set
from xmodal.data.keep_list import keep_only
from xmodal.data.keep_list_file import MAX_WEIGHT
from xmodal.data.manifest import Manifest, read_manifest, write_manifest
from xmodal.data.reader import SampleReader
from xmodal.data.shard_index import write_index
from xmodal.data.storage.s3 import S3Storage
from xmodal.errors import UserError

SIZES = (7, 5, 9, 3)
NUMBERED = list(numbered(sum(SIZES)).items())
STARTS = np.cumsum((0, *SIZES)).tolist()
SHARDS = [dict(NUMBERED[a:b]) for a, b in pairwise(STARTS)]
SAMPLES: list[Named] = [(shard_name(n), key) for n, shard in enumerate(SHARDS) for key in shard]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_shards(tmp_path_factory.mktemp("whole"), SHARDS)


@pytest.fixture
def keep(tmp_path: Path, whole: Manifest) -> Callable[..., Manifest]:
    """Return the view of the whole set of a keep-list with these columns."""

    def kept(**columns: object) -> Manifest:
        pq.write_table(pa.table(columns), tmp_path / "keep.parquet")
        return keep_only(whole, str(tmp_path / "keep.parquet"))

    return kept


def refusal(keep: Callable[..., Manifest], **columns: object) -> str:
    with pytest.raises(UserError) as caught:
        keep(**columns)
    line = str(caught.value)
    assert "\n" not in line
    return line.partition("keep.parquet")[2]


@settings(max_examples=12)
@given(
    st.lists(st.sampled_from(SAMPLES), min_size=4, unique=True),
    st.sampled_from([1, 2, 3, 6]),
    st.integers(0, 5),
    st.sampled_from([1, 2, 3]),
)
def test_batches_are_those_of_a_rebuilt_set_on_any_ranks_and_resumed(
    whole: Manifest,
    tmp_path_factory: pytest.TempPathFactory,
    samples: list[Named],
    ranks: int,
    first: int,
    window: int,
) -> None:
    folder = tmp_path_factory.mktemp("kept")
    view = keep_only(whole, str(write_keep_list(folder / "keep.parquet", samples)))
    rebuilt = rebuild(folder / "set", SHARDS, samples)
    sizes = [[shard.num_samples for shard in one.shards] for one in (view, rebuilt)]
    assert sizes[0] == sizes[1]
    sets = [training_set(one, window=window) for one in (view, rebuilt)]
    for rank in range(ranks):
        pairs = [batches(one, range(first, first + 3), rank=rank, ranks=ranks) for one in sets]
        for of_view, of_rebuilt in zip(*pairs, strict=True):
            assert_same(of_view, of_rebuilt)


def test_workers_read_a_view(whole: Manifest, tmp_path: Path) -> None:
    view = keep_only(whole, str(write_keep_list(tmp_path / "keep.parquet", SAMPLES[::3])))
    alone, shared = (batches(training_set(view), range(4), workers=n) for n in (0, 2))
    for one, other in zip(alone, shared, strict=True):
        assert_same(one, other)
    assert {n for batch in alone for n in numbers_of(batch)} == set(range(0, sum(SIZES), 3))


def test_a_view_has_the_samples_of_the_manifest_in_its_order(
    whole: Manifest, tmp_path: Path
) -> None:
    chosen = [SAMPLES[n] for n in (20, 3, 13, 0, 14)]  # of three of the four shards
    view = keep_only(whole, str(write_keep_list(tmp_path / "keep.parquet", chosen)))
    assert [shard.name for shard in view.shards] == [shard_name(n) for n in (0, 2)]
    assert [shard.num_samples for shard in view.shards] == [2, 3]
    assert view.num_samples == view.epoch_samples == 5
    keys = [sample.key for sample in SampleReader(view).load(range(5))]
    assert keys == [SAMPLES[n][1] for n in (0, 3, 13, 14, 20)]
    assert view.warnings == []


def test_the_fingerprint_is_of_what_is_kept(whole: Manifest, tmp_path: Path) -> None:
    def fingerprint(samples: list[Named], weights: list[float] | None = None) -> str:
        path = write_keep_list(tmp_path / "keep.parquet", samples, weights)
        return keep_only(whole, str(path)).fingerprint

    some = SAMPLES[2:9]
    assert fingerprint(some) == fingerprint(some[::-1])
    stranger = [("other.tar", "a"), (shard_name(0), "b")]
    assert fingerprint(some) == fingerprint([*some, *stranger])
    found = [
        whole.fingerprint,
        fingerprint(some),
        fingerprint(SAMPLES[2:8]),
        fingerprint([*SAMPLES[2:8], SAMPLES[10]]),
        fingerprint(some, [1.0] * 7),
        fingerprint(some, [1.0] * 6 + [2.0]),
        fingerprint(some[::-1], [1.0] * 6 + [2.0]),
    ]
    assert len(set(found)) == len(found)


def test_weights_are_the_expected_occurrences(whole: Manifest, tmp_path: Path) -> None:
    weights = np.random.default_rng(0).choice([0.25, 1, 2.5], len(SAMPLES)).tolist()
    path = write_keep_list(tmp_path / "keep.parquet", SAMPLES[::-1], weights[::-1])
    view = keep_only(whole, str(path))
    total = view.epoch_samples
    assert total == round(sum(weights))
    plan = mixture_of(view).plans[0]
    counts = np.array(
        [
            np.bincount(
                [plan.sample_at(epoch * total + place) for place in range(total)],
                minlength=len(SAMPLES),
            )
            for epoch in range(200)
        ]
    )
    expected = np.array(weights) * total / sum(weights)
    assert (np.abs(counts - expected) < 1).all()
    assert np.abs(counts.mean(0) - expected).max() < 0.12
    again = mixture_of(view)
    for position in (0, 3 * total + 5, 177 * total + 11):  # whatever was read before
        assert again.plans[0].sample_at(position) == plan.sample_at(position)


@pytest.mark.parametrize("ranks", [2, 3, 6])
def test_weighted_batches_are_the_same_on_any_ranks_and_resumed(
    whole: Manifest, tmp_path: Path, ranks: int
) -> None:
    weights = [0.5 + number % 4 for number in range(len(SAMPLES))]
    view = keep_only(whole, str(write_keep_list(tmp_path / "keep.parquet", SAMPLES, weights)))
    alone = batches(training_set(view), range(2, 12))
    parts = [batches(training_set(view), range(8, 12), rank=r, ranks=ranks) for r in range(ranks)]
    for step, batch in enumerate(alone[6:]):
        for rank, part in enumerate(parts):
            mine = part[step]
            assert batch.images[rank::ranks].equal(mine.images)
            assert batch.image_ids[rank::ranks].equal(mine.image_ids)


def test_repetitions_of_a_sample_have_crops_and_captions_of_their_own(
    whole: Manifest, tmp_path: Path
) -> None:
    path = write_keep_list(tmp_path / "keep.parquet", SAMPLES[:6], [40.0, 1, 1, 1, 1, 1])
    batch = batches(training_set(keep_only(whole, str(path))), range(4))[-1]
    repeated = [n for n, number in enumerate(numbers_of(batch)) if number == 0]
    assert len(repeated) > 4
    assert len({tuple(batch.tokens[row].tolist()) for row in repeated}) > 1


def test_samples_of_weight_one_come_as_without_weights(whole: Manifest, tmp_path: Path) -> None:
    plain, ones = (
        training_set(keep_only(whole, str(write_keep_list(tmp_path / name, SAMPLES[::2], weights))))
        for name, weights in (("plain", None), ("ones", [1] * len(SAMPLES[::2])))
    )
    for one, other in zip(batches(plain, range(5)), batches(ones, range(5)), strict=True):
        assert_same(one, other)


def test_unknown_samples_are_counted_and_named_in_one_line(
    keep: Callable[..., Manifest], whole: Manifest
) -> None:
    name = shard_name(1)
    view = keep(
        shard=["x.tar", name, name, "y\n.tar", "x.tar", name],
        key=["a", SAMPLES[8][1], "nowhere", "a", "b", "\x1b"],
    )
    assert view.num_samples == 1
    (line,) = view.warnings
    assert line.partition("keep.parquet: ")[2] == (
        f"only 1 of its 6 samples are in {whole.url}: 3 of unknown shards (x.tar; y\\n.tar), "
        f"2 of unknown keys ({name}, nowhere; {name}, \\x1b)"
    )


def test_a_list_that_keeps_nothing_is_refused(
    keep: Callable[..., Manifest], whole: Manifest
) -> None:
    assert refusal(keep, shard=["x.tar"] * 5, key=list("abcde")) == (
        f": none of its 5 samples are in {whole.url}: 5 of unknown shards (x.tar)"
    )
    assert "5 of unknown keys (set-000000.tar, a; " in refusal(
        keep, shard=[shard_name(0)] * 5, key=list("abcde")
    )
    empty = pa.array([], pa.string())
    assert refusal(keep, shard=empty, key=empty) == " keeps no sample: it has no rows"


NAME, KEY = SAMPLES[0]
WRONG: list[tuple[dict[str, object], str]] = [
    ({"shard": [NAME] * 2, "key": [KEY] * 2}, f" names {NAME}, {KEY} twice: remove one"),
    ({"shard": [NAME] * 2, "key": [KEY, None]}, ": row 1 has no key"),
    ({"shard": [None, NAME], "key": [KEY] * 2}, ": row 0 has no shard"),
    ({"shard": [NAME], "keys": [KEY]}, " has no column key, but shard, keys: write columns"),
    ({"key": [KEY]}, " has no column shard, but key: "),
    ({"shard": [NAME], "key": [0]}, ": column key is of type int64; write strings"),
    (
        {"shard": [NAME], "key": [KEY], "weight": ["1"]},
        ": column weight is of type string; write numbers",
    ),
    *(
        (
            {"shard": [NAME] * 2, "key": [KEY, "x"], "weight": pa.array([1.0, weight])},
            f": weight {weight} of row 1 is none; a weight is the expected number of occurrences",
        )
        for weight in (0.0, -1.0, float("nan"), float("inf"), None, 2.0 * MAX_WEIGHT, 1e-60)
    ),
]


@pytest.mark.parametrize(("columns", "line"), WRONG, ids=[line for _, line in WRONG])
def test_a_wrong_list_is_refused_in_one_line(
    keep: Callable[..., Manifest], columns: dict[str, object], line: str
) -> None:
    assert refusal(keep, **columns).startswith(line)


def test_what_is_no_parquet_file_is_refused(whole: Manifest, tmp_path: Path) -> None:
    path = write_keep_list(tmp_path / "keep.parquet", SAMPLES)
    data = path.read_bytes()
    for wrong in (b"", b"shard,key\n", data[: len(data) // 2], data[:40] + bytes(40) + data[80:]):
        path.write_bytes(wrong)
        with pytest.raises(UserError, match="is no parquet file, or is damaged: write columns"):
            keep_only(whole, str(path))
    with pytest.raises(UserError, match="none is missing"):
        keep_only(whole, str(tmp_path / "none"))
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        keep_only(whole, str(tmp_path))


@pytest.mark.s3
def test_shards_and_list_lie_in_a_bucket(
    s3: Gateway, whole: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    bucket, storage = s3.bucket(), S3Storage()
    for path in Path(whole.url).iterdir():
        storage.write(f"{bucket}/set/{path.name}", path.read_bytes())
    local = write_keep_list(tmp_path / "keep.parquet", SAMPLES[::2])
    storage.write(f"{bucket}/keep.parquet", local.read_bytes())
    view = keep_only(read_manifest(f"{bucket}/set"), f"{bucket}/keep.parquet")
    assert view.fingerprint == keep_only(whole, str(local)).fingerprint
    for one, other in zip(
        *(batches(training_set(of), range(2)) for of in (view, keep_only(whole, str(local)))),
        strict=True,
    ):
        assert one.images.equal(other.images)
    with pytest.raises(UserError, match="none is missing: restore it"):
        keep_only(view, f"{bucket}/none")


def test_numbers_categories_and_long_strings_are_read(keep: Callable[..., Manifest]) -> None:
    names = pa.array([name for name, _ in SAMPLES])
    keys = [key for _, key in SAMPLES]
    view = keep(shard=names.dictionary_encode(), key=pa.array(keys, pa.large_string()))
    assert view.num_samples == len(SAMPLES)
    view = keep(shard=names, key=keys, weight=pa.array([2] * len(keys), pa.int8()), score=keys)
    assert view.epoch_samples == 2 * len(SAMPLES)


@pytest.mark.parametrize("other", ["jpg", "txt"])  # of one table, or of lines
def test_a_key_that_a_shard_has_twice_cannot_be_kept(tmp_path: Path, other: str) -> None:
    path = tmp_path / "set" / shard_name(0)
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar:
        for name in ("a.jpg", f"b.{other}", "a.jpg", "c.jpg"):
            tar.addfile(tarfile.TarInfo(name))
    write_manifest(path.parent, {path.name: write_index(path).num_samples})
    manifest = read_manifest(path.parent)
    keep = tmp_path / "keep.parquet"
    named = [(path.name, key) for key in "abc"]
    view = keep_only(manifest, str(write_keep_list(keep, named[1:])))
    assert [one.key for one in view.index(view.shards[0])] == ["b", "c"]
    with pytest.raises(UserError, match=rf"{path.name}, a, a key that {path} has twice: remove"):
        keep_only(manifest, str(write_keep_list(keep, named)))


def test_shards_of_one_name_cannot_be_told_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_shards(tmp_path / folder, SHARDS[:1])
    both = read_manifest(f"{tmp_path}/{{a,b}}")
    path = write_keep_list(tmp_path / "keep.parquet", SAMPLES[:2])
    with pytest.raises(UserError, match="has several shards of that name: list their folders"):
        keep_only(both, str(path))
