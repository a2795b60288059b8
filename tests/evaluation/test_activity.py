"""What an evaluation names as its activity, by a heartbeat that beats whenever something moves."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from tests.evaluation.test_retrieval import IMAGES, Bags, Learned, measured, samples
from tests.shard_sets import write_shards
from xmodal import activity
from xmodal.activity import SECONDS_OF_SILENCE, Activity, Heartbeat


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Return the lines of a block in which ten seconds pass with each beat."""
    clock = count(0, SECONDS_OF_SILENCE)
    heart = Heartbeat(lambda: next(clock))
    monkeypatch.setattr(heart, "_beat", lambda _: None)
    monkeypatch.setattr(activity, "_HEARTBEAT", heart)
    named, advance = heart.activity, Activity.advance

    @contextmanager
    def beating(*arguments: object) -> Iterator[Activity]:
        with named(*arguments) as one:
            heart.beat()
            yield one

    def advancing(one: Activity, number: int = 1) -> None:
        advance(one, number)
        heart.beat()

    monkeypatch.setattr(heart, "activity", beating)
    monkeypatch.setattr(Activity, "advance", advancing)
    found: list[str] = []
    with heart.reporting(found.append):
        yield found


@pytest.mark.parametrize("all_pairs", [10**6, 0])
def test_an_evaluation_names_what_it_does_and_how_far_it_is(
    all_pairs: int, lines: list[str], tmp_path: Path
) -> None:
    write_shards(tmp_path, [samples()])
    measured(Learned(), tmp_path, "all-captions", "class", "gap", all_pairs=all_pairs)
    text = "\n".join(line.rpartition(" (")[0] for line in lines) + "\n"
    sizes = f"{IMAGES} images × {5 * IMAGES} texts"
    assert f"embedding {tmp_path}: sample 0 of {IMAGES}: waiting for data\n" in text
    assert f"embedding {tmp_path}: sample {IMAGES} of {IMAGES}\n" in text
    assert f"\nall-captions, {sizes}: tile 1 of " in text
    assert f"\nclass, {sizes}: row of tiles 1 of " in text
    assert f"\ngap, {sizes}\n" in text
    assert "what images find: query 1 of 6" in text
    assert ("part of the shortlists 1 of 1" in text) == (not all_pairs)


def test_classes_by_name(lines: list[str], tmp_path: Path) -> None:
    write_shards(tmp_path, [samples()])
    measured(Bags(), tmp_path, "zero-shot")
    assert any("embedding names of classes: batch 1 of 1" in line for line in lines)
