"""Composed queries and the gallery that they are searched in.

Images of one id count once.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from xmodal.data.samples import hash_id
from xmodal.evaluation.gallery import Gallery, Queries
from xmodal.evaluation.metrics.own_ranks import OwnRanks, own_ranks
from xmodal.evaluation.metrics.tiles import Choice


class Search:
    """Queries, their gallery, and the images that are relevant by the queries' records.

    `tile` is about the largest side of a tile of scores.
    """

    def __init__(self, queries: Queries, gallery: Gallery, tile: int) -> None:
        self.queries, self.gallery, self.tile = queries, distinct(gallery), tile
        self.row_of = {one: row for row, one in enumerate(self.gallery.image_ids.tolist())}

    def relevant(self, rows: Tensor) -> Tensor:
        """Return the images that some queries ask for, (some, images) bool."""
        return self.mask(self.targets[row] for row in rows.tolist())

    def is_source(self, rows: Tensor) -> Tensor:
        """Return the images that some queries start from, (some, images) bool."""
        return self.mask(self.sources[row] for row in rows.tolist())

    def is_member(self, rows: Tensor) -> Tensor:
        """Return the images that look like some queries' sources, (some, images) bool."""
        names = (self.queries.records[row]["members"] for row in rows.tolist())
        return self.mask(map(self._rows_of, names))

    @cached_property
    def sources(self) -> list[list[int]]:
        """Row of each query's own image, if it is in the gallery."""
        return [self._rows_of([record["source_id"]]) for record in self.queries.records]

    @cached_property
    def targets(self) -> list[list[int]]:
        """The rows of the images that each query asks for."""
        return [
            self._rows_of(record["target_ids"] or filter(None, [record["target_id"]]))
            for record in self.queries.records
        ]

    def ranks(self, relevant: Choice, removed: Choice) -> OwnRanks:
        """Rank each query's best relevant image among all that are not removed."""
        queries, images = self.queries.embeddings, self.gallery.images
        return own_ranks(queries, images, relevant, removed, self.tile)

    def mask(self, chosen: Iterable[Sequence[int]]) -> Tensor:
        """Return rows of the gallery for each query as (queries, images) bool."""
        rows = list(chosen)
        mask = torch.zeros(len(rows), len(self.row_of), dtype=torch.bool)
        places = [(row, column) for row, columns in enumerate(rows) for column in columns]
        if places:
            mask[tuple(torch.tensor(places).T)] = True
        return mask.to(self.gallery.images.device)

    def _rows_of(self, names: Iterable[str]) -> list[int]:
        return [row for name in names if (row := self.row_of.get(hash_id(name))) is not None]


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
