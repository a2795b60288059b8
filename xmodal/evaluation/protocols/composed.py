"""Composed retrieval: an image and what shall be other about it, and the image that is meant.

A query is searched in a gallery of its own: all images but the one that it starts from, those of
its category (Fashion IQ), or the few that look alike (CIRR's subset). Images are told apart by
their ids, and those of one id count once. Ties count against the model.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from xmodal.data.samples import hash_id
from xmodal.evaluation.gallery import Gallery, Queries
from xmodal.evaluation.metrics.recall import chance_recall, median_rank
from xmodal.evaluation.metrics.tiles import Choice, judge_queries
from xmodal.methods.scores import dot_product

# Of each protocol the K of its recalls.
CUTOFFS = {
    "composed": (1, 5, 10, 50, 100),
    "fashion200k": (1, 10, 50),
    "mit-states": (1, 5, 10),
    "css": (1,),
    "fashion-iq": (10, 50),
    "cirr": (1, 5, 10, 50),
}
SUBSET_CUTOFFS = (1, 2, 3)
WORDS = ("adjective", "noun")
BETTER = {name: tuple(f"recall@{k}" for k in cutoffs) for name, cutoffs in CUTOFFS.items()}
BETTER["cirr"] += tuple(f"recall_subset@{k}" for k in SUBSET_CUTOFFS)
BETTER["mit-states"] += tuple(f"{word}/{name}" for word in WORDS for name in BETTER["mit-states"])


@dataclass(frozen=True)
class OwnRanks:
    """What queries find, each in a gallery of its own."""

    ranks: Tensor  # (queries,) int64, 0-based, of the best right image; the last of all: none
    right: Tensor  # (queries,) int64, how many images are right
    searched: Tensor  # (queries,) int64, how many images there are

    def recalls(self, cutoffs: Sequence[int], prefix: str) -> dict[str, float]:
        """Return recalls at the cutoffs in percent, each with its chance, named `prefix@K`."""
        metrics = {}
        for k in cutoffs:
            chance = chance_recall(self.right, self.searched, k)
            hits = (self.ranks < k) & (self.right > 0)
            metrics[f"{prefix}@{k}"] = 100 * float(hits.double().mean())
            metrics[f"{prefix}@{k}_chance"] = 100 * float(chance.mean())
        return metrics

    def of(self, rows: Sequence[int]) -> "OwnRanks":
        """Return those of some queries."""
        return OwnRanks(self.ranks[rows], self.right[rows], self.searched[rows])


class Search:
    """Queries, the gallery that they are searched in, and by a protocol which images are right."""

    def __init__(self, queries: Queries, gallery: Gallery, protocol: str) -> None:
        self.queries, self.gallery = queries, distinct(gallery)
        self.protocol = protocol
        self.row_of = {one: row for row, one in enumerate(self.gallery.image_ids.tolist())}

    def right(self, rows: Tensor) -> Tensor:
        """Return which images some queries ask for, (some, images) bool."""
        return self._mask(self.targets[row] for row in rows.tolist())

    def removed(self, rows: Tensor) -> Tensor:
        """Return which images are not in the galleries of some queries, (some, images) bool."""
        sources = self._mask(self.sources[row] for row in rows.tolist())
        if self.protocol != "fashion-iq":
            return sources
        of_category, of_images = self.categories
        return sources | ~of_images[of_category[rows]]

    def not_member(self, rows: Tensor) -> Tensor:
        """Return which images are not among those that look like some queries' sources."""
        names = (self.queries.records[row]["members"] for row in rows.tolist())
        return self.removed(rows) | ~self._mask(map(self._rows_of, names))

    @cached_property
    def sources(self) -> list[list[int]]:
        """Where each query's own image is, if it is in the gallery."""
        return [self._rows_of([record["source_id"]]) for record in self.queries.records]

    @cached_property
    def targets(self) -> list[list[int]]:
        """Where the images are that each query asks for."""
        return [
            self._rows_of(record["target_ids"] or filter(None, [record["target_id"]]))
            for record in self.queries.records
        ]

    @cached_property
    def categories(self) -> tuple[Tensor, Tensor]:
        """Return the number of each query's category, (queries,), and which images are of each
        category, (categories, images) bool.
        """
        of_queries = [record["category"] for record in self.queries.records]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(of_queries))}
        labels, device = self.gallery.labels, self.gallery.images.device
        of_images = [[name in of_image for of_image in labels] for name in numbers]
        return (
            torch.tensor([numbers[name] for name in of_queries], device=device),
            torch.tensor(of_images, device=device),
        )

    def ranks(self, right: Choice, removed: Choice, tile: int) -> OwnRanks:
        """Rank each query's best right image among all that are not removed."""
        return own_ranks(self.queries.embeddings, self.gallery.images, right, removed, tile)

    def _rows_of(self, names: Iterable[str]) -> list[int]:
        return [row for name in names if (row := self.row_of.get(hash_id(name))) is not None]

    def _mask(self, chosen: Iterable[Sequence[int]]) -> Tensor:
        rows = list(chosen)
        mask = torch.zeros(len(rows), len(self.row_of), dtype=torch.bool)
        places = [(row, column) for row, columns in enumerate(rows) for column in columns]
        if places:
            mask[tuple(torch.tensor(places).T)] = True
        return mask.to(self.gallery.images.device)


def composed_metrics(
    queries: Queries, gallery: Gallery, protocol: str, tile: int
) -> dict[str, float]:
    """Name and number of every metric of composed retrieval by a protocol, recalls in percent.

    `P/recall@K` by the protocol's K, each with its `recall@K_chance`; `P/median_rank` from 1;
    `P/num_queries`, `P/num_images`, and `P/num_without_target`, queries that have no right image
    to be found: they count as not found, and in the median as last of all images. Further

    - mit-states: `P/adjective/recall@K` and `P/noun/recall@K`, images that share that word of the
      target's with it;
    - fashion-iq: `P/CATEGORY/recall@K`, of which `P/recall@K` is the mean;
    - cirr: `P/recall_subset@K`, among the images that look like the source.
    """
    search = Search(queries, gallery, protocol)
    cutoffs = CUTOFFS[protocol]
    found = search.ranks(search.right, search.removed, tile)
    metrics = found.recalls(cutoffs, f"{protocol}/recall")
    match protocol:
        case "mit-states":
            for place, word in enumerate(WORDS):
                shares = _same_word(search, place)
                of_word = search.ranks(shares, search.removed, tile)
                metrics |= of_word.recalls(cutoffs, f"{protocol}/{word}/recall")
        case "fashion-iq":
            metrics = _by_category(search, found)
        case "cirr":
            subset = search.ranks(search.right, search.not_member, tile)
            metrics |= subset.recalls(SUBSET_CUTOFFS, f"{protocol}/recall_subset")
    counts = {
        "num_queries": len(queries.records),
        "num_images": len(search.gallery.images),
        "num_without_target": int((found.right == 0).sum()),
    }
    return {
        **metrics,
        f"{protocol}/median_rank": median_rank(found.ranks),
        **{f"{protocol}/{name}": float(count) for name, count in counts.items()},
    }


def own_ranks(
    queries: Tensor, gallery: Tensor, right: Choice, removed: Choice, tile: int
) -> OwnRanks:
    """Rank each query's best right item among those that are not removed, as `judge_queries` does.

    Where none is right the rank is the last of the whole gallery, not of the query's own, which
    would be the better the less it holds.

    Args:
        queries: (queries, dim) unit vectors.
        gallery: (items, dim) unit vectors.
        right: which items some queries ask for.
        removed: which items they are not searched among; one of these is not right.
        tile: about the largest side of a tile of scores.
    """

    def judge(rows: Tensor, scores: Tensor) -> Tensor:
        kept = ~removed(rows)
        is_right = right(rows) & kept
        best = scores.masked_fill(~is_right, -torch.inf).amax(1, keepdim=True)
        rivals = ((scores >= best) & kept & ~is_right).sum(1)
        ranks = rivals.where(is_right.any(1), len(gallery) - 1)
        return torch.stack([ranks, is_right.sum(1), kept.sum(1)], 1)

    values = judge_queries(queries, gallery, dot_product, tile, 3, judge)
    return OwnRanks(*values.long().unbind(1))


def distinct(gallery: Gallery) -> Gallery:
    """Return the first image of each id, with the labels of all of that id."""
    labels: dict[int, list[str]] = {}
    rows = []
    for row, image_id in enumerate(gallery.image_ids.tolist()):
        if image_id not in labels:
            labels[image_id] = []
            rows.append(row)
        labels[image_id] += [one for one in gallery.labels[row] if one not in labels[image_id]]
    none = gallery.owners[:0]
    return Gallery(
        gallery.numbers[rows],
        gallery.image_ids[rows],
        gallery.images[rows],
        none,
        gallery.texts[none],
        list(labels.values()),
    )


def _same_word(search: Search, place: int) -> Choice:
    """Return which images have the target's label in a place of their labels."""
    codes: dict[str, int] = {}
    labels = search.gallery.labels
    of_images = [
        codes.setdefault(one[place], len(codes)) if len(one) > place else -1 for one in labels
    ]
    of_queries = [of_images[targets[0]] if targets else -2 for targets in search.targets]
    device = search.gallery.images.device
    images, queries = (torch.tensor(side, device=device) for side in (of_images, of_queries))
    return lambda rows: queries[rows, None] == images


def _by_category(search: Search, found: OwnRanks) -> dict[str, float]:
    protocol, cutoffs = search.protocol, CUTOFFS[search.protocol]
    of_queries = [record["category"] for record in search.queries.records]
    metrics: dict[str, float] = {}
    categories = sorted(set(of_queries))
    for category in categories:
        rows = [row for row, one in enumerate(of_queries) if one == category]
        metrics |= found.of(rows).recalls(cutoffs, f"{protocol}/{category}/recall")
    for name in (f"recall@{k}{ending}" for k in cutoffs for ending in ("", "_chance")):
        of_categories = [metrics[f"{protocol}/{category}/{name}"] for category in categories]
        metrics[f"{protocol}/{name}"] = sum(of_categories) / len(of_categories)
    return metrics
