"""Index of inverted lists (faiss' IVF), built part by part within a limit of memory.

Vectors are compressed: to a byte a number where all of them fit into the memory (SQ8), else by
product quantisation. Hits are scored exactly, by the vectors themselves.
"""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from xmodal.activity import activity
from xmodal.search.inverted_lists import Blocks
from xmodal.search.vector_file import VectorFile, sample

LEAST = 40  # vectors a list is trained with at least
TRAINED = 64  # vectors a list is trained with
TRAINED_PQ = 2**14  # vectors that product quantisation is trained with at least
CHUNK = 64 * 2**20  # bytes of vectors that are added at a time


@dataclass(frozen=True)
class IvfPlan:
    """Size of an index: lists, and the bytes of a code of product quantisation; None: SQ8."""

    lists: int
    code: int | None

    @property
    def factory(self) -> str:
        """faiss' name of the index."""
        return f"IVF{self.lists},{'SQ8' if self.code is None else f'PQ{self.code}x8'}"


def plan_ivf(vectors: int, dim: int, memory: int) -> IvfPlan | None:
    """Return the size of the index of so many vectors; None where they are too few for one.

    A power of two of lists, about 4 √n. SQ8 where all codes fit into half of the memory.
    """
    # What it is trained with is in memory.
    most = min(vectors // LEAST, memory // 4 // (4 * dim * TRAINED))
    if most < 2:
        return None
    lists = 2 ** min(round(math.log2(4 * math.sqrt(vectors))), int(math.log2(most)))
    if vectors * (dim + 8) <= memory // 2:
        return IvfPlan(lists, None)
    codes = [dim // n for n in (2, 4, 8, 16, 32) if dim % n == 0]
    fitting = [code for code in codes if vectors * (code + 8) <= memory // 2]
    return IvfPlan(lists, (fitting or codes[-1:])[0])


def build_ivf(file: VectorFile, plan: IvfPlan, folder: Path, side: str, memory: int) -> None:
    """Write the index of a file of vectors as SIDE.faiss and SIDE.lists into a folder."""
    index = _empty(file.dim, plan)
    with activity(f"training {plan.factory}"):
        index.train(file.take(sample(len(file), max(plan.lists * TRAINED, TRAINED_PQ))))
    blocks = Blocks(index, folder / "blocks")
    size = _held(memory, index.invlists.code_size)
    with activity("adding vector", len(file)) as added:
        for start, chunk in file.chunks(min(CHUNK, memory // 16)):
            index.add_with_ids(chunk, np.arange(start, start + len(chunk)))
            added.advance(len(chunk))
            if index.ntotal >= size:
                blocks.flush()
    blocks.flush()
    lists = blocks.merge(folder / f"{side}.lists")
    shutil.rmtree(blocks.folder)
    index.replace_invlists(lists, False)
    index.ntotal = len(file)
    faiss.write_index(index, str(folder / f"{side}.faiss"))


def _held(memory: int, code_size: int) -> int:
    """Return how many codes with their ids are in memory at a time."""
    return memory // 4 // (code_size + 8)


def _empty(dim: int, plan: IvfPlan) -> Any:
    """Return an index that is not trained yet."""
    index = faiss.index_factory(dim, plan.factory, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.max_points_per_centroid = 0, TRAINED
    if plan.code is not None:
        index.do_polysemous_training = False  # takes minutes, and serves comparisons of bits alone
    return index
