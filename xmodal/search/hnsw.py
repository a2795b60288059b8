"""Graph of near neighbours (Malkov and Yashunin 2018, arXiv 1603.09320), as faiss has it.

It is built and searched in memory, of vectors of a byte a number; hits are scored exactly.
"""

from pathlib import Path

import faiss

from xmodal.activity import activity
from xmodal.errors import UserError
from xmodal.search.vector_file import VectorFile, sample

NEIGHBOURS = 32
EF_CONSTRUCTION = 80
FACTORY = f"HNSW{NEIGHBOURS}_SQ8"
HIGHEST = 4096  # length of its queue
TRAINED = 100_000  # vectors from which the range of numbers is learned
CHUNK = 16 * 2**20


def check_memory(vectors: int, dim: int, memory: int) -> None:
    """Raise `UserError` where the graph of so many vectors does not fit into memory."""
    needed = vectors * (dim + 2 * NEIGHBOURS * 4 + 16) * 5 // 4
    if needed > memory:
        raise UserError(
            f"--kind hnsw of {vectors:,} vectors takes about {needed / 1e9:.1f} GB of memory; "
            f"give --memory {-(-needed // 10**9)}GB, or use --kind ivf"
        )


def build_hnsw(file: VectorFile, folder: Path, side: str) -> None:
    """Write the graph of a file of vectors as SIDE.faiss into a folder."""
    index = faiss.index_factory(file.dim, FACTORY, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = EF_CONSTRUCTION
    index.train(file.take(sample(len(file), TRAINED)))
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # several would connect the graph in the order of their speed
    try:
        with activity("adding vector", len(file)) as added:
            for _, chunk in file.chunks(CHUNK):
                index.add(chunk)
                added.advance(len(chunk))
    finally:
        faiss.omp_set_num_threads(threads)
    faiss.write_index(index, str(folder / f"{side}.faiss"))
