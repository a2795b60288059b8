"""Composed retrieval against a walk through each query's own gallery."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.processes import on_ranks
from xmodal.data.batch import BatchSpec
from xmodal.data.samples import hash_id
from xmodal.evaluation.gallery import Gallery, Queries
from xmodal.evaluation.metrics.recall import median_rank
from xmodal.evaluation.protocols.composed import Composed
from xmodal.evaluation.protocols.registry import fitting, protocol
from xmodal.evaluation.protocols.search import distinct

NAMES = fitting(BatchSpec(composed=True))
CATEGORIES = ["dress", "shirt", "toptee"]
STATES, THINGS = ["old", "new", "wet"], ["castle", "coat"]


def gallery_of(names: list[str], labels: list[list[str]], images: torch.Tensor) -> Gallery:
    ids = torch.tensor([hash_id(name) for name in names])
    none = torch.zeros(0, dtype=torch.int64)
    return Gallery(torch.arange(len(names)), ids, images, none, images[:0], labels)


def measure(name: str, queries: Queries, gallery: Gallery, tile: int) -> dict[str, float]:
    return composed_protocol(name).measure_queries(queries, gallery, tile)


def composed_protocol(name: str) -> Composed:
    found = protocol(name)
    assert isinstance(found, Composed)
    return found


def record(source: str, target: str | None, **more: Any) -> dict[str, Any]:
    given = {"source_id": source, "target_id": target, "target_ids": [], "members": []}
    return given | {"category": "dress"} | more


def one_hot(*places: int, dim: int = 8) -> torch.Tensor:
    return torch.eye(dim)[list(places)]


def test_only_the_source_is_removed_and_any_target_counts() -> None:
    names = list("abcd")
    # Scores of the one query: 0.9, 0.8, 0.7, 0.6.
    gallery = gallery_of(names, [[]] * 4, torch.tensor([[0.9], [0.8], [0.7], [0.6]]))
    one = torch.ones(1, 1)

    def rank(**query: Any) -> float:
        given = {"source": "z", "target": None} | query
        queries = Queries(torch.zeros(1), one, [record(**given)])
        return measure("composed", queries, gallery, 64)["composed/median_rank"]

    assert rank(target="c") == 3
    assert rank(source="a", target="c") == 2
    assert rank(target="d", target_ids=["d", "b"]) == 2
    assert rank(target="d", target_ids=["c"]) == 3  # target_ids say it all where they are given
    # The source is not found even where it is what is asked for.
    assert rank(source="a", target="a", target_ids=["a", "d"]) == 3


def test_what_the_gallery_lacks_is_not_found() -> None:
    gallery = gallery_of(list("ab"), [[]] * 2, one_hot(0, 1))
    records = [record("a", "nowhere"), record("a", None), record("z", "b")]
    queries = Queries(torch.arange(3), one_hot(0, 0, 1), records)
    metrics = measure("composed", queries, gallery, 64)
    assert metrics["composed/num_without_target"] == 2
    assert metrics["composed/median_rank"] == 2  # of 2, 2 and 1
    assert metrics["composed/recall@1"] == pytest.approx(100 / 3)
    assert metrics["composed/recall@100"] == pytest.approx(100 / 3)
    assert metrics["composed/recall@1_chance"] == pytest.approx(100 * (1 / 2) / 3)


def test_nothing_to_search_in_is_no_good_rank() -> None:
    gallery = gallery_of(list("abcd"), [["dress"]] * 4, one_hot(0, 1, 2, 3))
    records = [record("a", "b", category="hat"), record("a", "nowhere")]
    queries = Queries(torch.arange(2), one_hot(0, 0), records)
    metrics = measure("fashion-iq", queries, gallery, 64)
    # The last of the four images, though the galleries searched hold none and three.
    assert metrics["fashion-iq/median_rank"] == 4
    assert metrics["fashion-iq/num_without_target"] == 2
    assert metrics["fashion-iq/hat/recall@50"] == metrics["fashion-iq/dress/recall@50"] == 0


def test_ties_count_against_the_model() -> None:
    gallery = gallery_of(list("abc"), [[]] * 3, torch.ones(3, 1))
    queries = Queries(torch.zeros(1), torch.ones(1, 1), [record("a", "b")])
    metrics = measure("css", queries, gallery, 64)
    assert metrics["css/recall@1"] == 0
    assert metrics["css/recall@1_chance"] == pytest.approx(50)
    assert metrics["css/median_rank"] == 2


def test_images_of_one_id_are_one() -> None:
    labels = [["x"], [], ["y", "x"], ["z"]]
    gallery = distinct(gallery_of(["a", "b", "a", "c"], labels, one_hot(0, 1, 0, 2)))
    assert gallery.numbers.tolist() == [0, 1, 3]
    assert gallery.labels == [["x", "y"], [], ["z"]]
    assert gallery.images.equal(one_hot(0, 1, 2))
    # Twice in the gallery, the wrong image is one rival, and a source is removed wherever it is.
    names = ["s", "w", "w", "t", "s"]
    gallery = gallery_of(names, [[]] * 5, torch.tensor([[0.9], [0.8], [0.8], [0.7], [0.9]]))
    queries = Queries(torch.zeros(1), torch.ones(1, 1), [record("s", "t")])
    metrics = measure("composed", queries, gallery, 64)
    assert metrics["composed/median_rank"] == 2
    assert metrics["composed/num_images"] == 3


def drawn(seed: int, images: int = 40, queries: int = 30) -> tuple[Queries, Gallery]:
    """Random queries and images; scores are whole numbers, so that many are equal."""
    rng = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> list[int]:
        return torch.randint(images, size, generator=rng).flatten().tolist()

    names = [f"i{n}" for n in range(images)]
    labels = [[STATES[n % 3], THINGS[n % 2], CATEGORIES[n % 5 % 3]] for n in draw(images)]
    records = []
    for source, target, *others in zip(*(draw(queries) for _ in range(8)), strict=True):
        members = [names[n] for n in {source, target, *others}]
        right = [names[n] for n in others[:2]] if target % 2 else []
        category = labels[target][2]
        records.append(
            record(names[source], names[target], target_ids=right, members=members)
            | {"category": category}
        )
    sides = (torch.randint(-2, 3, (n, 4), generator=rng).float() for n in (queries, images))
    embeddings, items = sides
    return Queries(torch.arange(queries), embeddings, records), gallery_of(names, labels, items)


Rank = tuple[int, bool]  # 0-based, and whether there is anything right


def by_walking(queries: Queries, gallery: Gallery, protocol: str) -> dict[str, list[Rank]]:
    """Ranks by what is measured: the order is walked through with worse things first."""
    found: dict[str, list[Rank]] = {}
    names = [f"i{n}" for n in range(len(gallery.images))]

    def rank(scores: list[float], searched: set[str], right: set[str]) -> Rank:
        order = sorted(
            (-score, name in right, name)
            for name, score in zip(names, scores, strict=True)
            if name in searched
        )
        places = [n for n, (_, is_right, _) in enumerate(order) if is_right]
        return (places[0], True) if places else (len(names) - 1, False)

    for query, asked in zip(queries.embeddings, queries.records, strict=True):
        scores = (gallery.images @ query).tolist()
        right = set(asked["target_ids"] or [asked["target_id"]])
        searched = set(names) - {asked["source_id"]}
        target = gallery.labels[names.index((asked["target_ids"] or [asked["target_id"]])[0])]
        match protocol:
            case "mit-states":
                for place, word in enumerate(("adjective", "noun")):
                    alike = {
                        name
                        for name, labels in zip(names, gallery.labels, strict=True)
                        if labels[place] == target[place]
                    }
                    found.setdefault(f"{word}/recall", []).append(rank(scores, searched, alike))
            case "fashion-iq":
                searched &= {
                    name
                    for name, labels in zip(names, gallery.labels, strict=True)
                    if asked["category"] in labels
                }
                own = rank(scores, searched, right)
                found.setdefault(f"{asked['category']}/recall", []).append(own)
            case "cirr":
                members = searched & set(asked["members"])
                found.setdefault("recall_subset", []).append(rank(scores, members, right))
        found.setdefault("recall", []).append(rank(scores, searched, right))
    return found


@pytest.mark.parametrize("protocol", NAMES)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=10)
def test_every_protocol_is_what_a_walk_through_each_gallery_finds(protocol: str, seed: int) -> None:
    queries, gallery = drawn(seed)
    metrics = measure(protocol, queries, gallery, 64)
    walked = by_walking(queries, gallery, protocol)
    ranks = torch.tensor([rank for rank, _ in walked["recall"]])
    assert metrics[f"{protocol}/median_rank"] == median_rank(ranks)
    if protocol == "fashion-iq":  # the mean over categories, not over queries
        walked.pop("recall")
    for name, found in walked.items():
        cutoffs = (1, 2, 3) if name == "recall_subset" else composed_protocol(protocol).cutoffs
        for k in cutoffs:
            expected = 100 * sum(right and rank < k for rank, right in found) / len(found)
            assert metrics[f"{protocol}/{name}@{k}"] == pytest.approx(expected), name
    if protocol == "fashion-iq":
        for k in composed_protocol(protocol).cutoffs:
            of_each = [metrics[f"{protocol}/{name}@{k}"] for name in walked]
            assert metrics[f"{protocol}/recall@{k}"] == pytest.approx(sum(of_each) / len(of_each))


@pytest.mark.parametrize("protocol", NAMES)
def test_chance_is_the_mean_of_random_orders(protocol: str) -> None:
    queries, gallery = drawn(0, images=12, queries=6)
    rng = torch.Generator().manual_seed(1)
    sums: dict[str, float] = {}
    for _ in range(400):
        queries.embeddings = torch.randn(6, 4, generator=rng, dtype=torch.float64)
        gallery.images = torch.randn(12, 4, generator=rng, dtype=torch.float64)
        metrics = measure(protocol, queries, gallery, 64)
        for name, value in metrics.items():
            sums[name] = sums.get(name, 0) + value / 400
    chances = [name for name in sums if name.endswith("_chance")]
    assert chances
    for name in chances:
        deviation = 50 / math.sqrt(400)  # at most, of one query
        assert sums[name.removesuffix("_chance")] == pytest.approx(sums[name], abs=3 * deviation)


def measured() -> dict[str, float]:
    queries, gallery = drawn(3, images=150, queries=200)
    both = [measure(name, queries, gallery, 48) for name in ("mit-states", "cirr")]
    return both[0] | both[1]


def test_ranks_share_the_queries_and_get_the_same() -> None:
    alone = measured()
    assert on_ranks(2, measured) == [alone, alone]


def test_a_score_that_is_no_number_is_told() -> None:
    queries, gallery = drawn(0)
    queries.embeddings[7] = torch.nan
    with pytest.raises(ValueError, match="a score is NaN of query 7"):
        measure("composed", queries, gallery, 64)
