"""Mining of hard negatives: for each sample the false ones that a model takes for relevant."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from xmodal.errors import UserError
from xmodal.search.curation.hardest import hardest_samples
from xmodal.search.curation.outcome import SHOWN, Figure, Outcome, Section, places
from xmodal.search.curation.sample_scores import SampleScores
from xmodal.search.searcher import Searcher

HARD = "hard.parquet"
_ITEMS = pa.list_(
    pa.struct([("shard", pa.string()), ("key", pa.string()), ("score", pa.float32())])
)
SCHEMA = pa.schema(
    [
        ("shard", pa.string()),
        ("key", pa.string()),
        ("score", pa.float32()),  # of the sample's image with the best of its own captions
        ("images", _ITEMS),  # whose images the sample's captions are taken for
        ("texts", _ITEMS),  # whose captions the sample's image is taken for
    ]
)


def mine(searcher: Searcher, k: int, margin: float, folder: Path) -> Outcome:
    """Find the k hardest false samples of each sample, a side, that score at least `margin` less
    than the sample itself; none is relevant to it.

    The table `SCHEMA` is written into the folder as blocks of it are known.
    """
    scores = SampleScores(searcher)
    own = scores.own(scores.of_captions())
    found, sections = {"images": 0, "texts": 0}, list[Section]()
    with pq.ParquetWriter(folder / HARD, SCHEMA) as writer:
        for hard in hardest_samples(scores, k, own - np.float32(margin)):
            sides = {"images": hard.to_images, "texts": hard.to_texts}
            rows = np.arange(hard.samples.start, hard.samples.stop)
            columns = {name: _items(searcher, *side) for name, side in sides.items()}
            score = pa.array(own[rows], pa.float32(), mask=np.isinf(own[rows]))
            table = {**places(searcher, rows), "score": score, **columns}
            writer.write_table(pa.table(table, SCHEMA))
            for name, column in columns.items():
                found[name] += len(column.flatten())
            if not sections:
                sections = [*_sections(searcher, rows, hard.to_images, own)]
    if not any(found.values()):
        raise UserError(f"no sample has a hard negative at --margin {margin:g}; give a smaller one")
    return Outcome(
        numbers={
            "samples": f"{len(scores):,}",
            "hard images": f"{found['images']:,}",
            "hard captions": f"{found['texts']:,}",
        },
        sections=sections,
        shown=f"hard images of the first {len(sections):,} samples",
    )


def _items(searcher: Searcher, scores: Tensor, rows: Tensor) -> pa.ListArray:
    """Return a list for each sample of the places and scores of its hardest ones."""
    counts = scores.isfinite()
    chosen = places(searcher, rows[counts].numpy())
    values = [chosen["shard"], chosen["key"], pa.array(scores[counts].numpy(), pa.float32())]
    flat = [v.combine_chunks() if isinstance(v, pa.ChunkedArray) else v for v in values]
    ends = np.concatenate([[0], counts.sum(1).cumsum(0).numpy()])
    items = pa.StructArray.from_arrays(flat, fields=list(_ITEMS.value_type))
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), items)


def _sections(
    searcher: Searcher, rows: np.ndarray, hard: tuple[Tensor, Tensor], own: np.ndarray
) -> Iterator[Section]:
    for row, scores, others in zip(rows[:SHOWN].tolist(), *hard, strict=False):
        falses = [
            Figure(searcher, other, f"{score:.3f}")
            for other, score in zip(others.tolist(), scores.tolist(), strict=True)
            if score > -np.inf
        ]
        yield Section(
            f"Sample {searcher.record(row)['key']}",
            [Figure(searcher, row, f"its own {own[row]:.3f}"), *falses],
        )
