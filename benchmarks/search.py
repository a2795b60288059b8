"""Recall, time and memory of search, beside faiss' flat index and the bare matrix product.

    python -m benchmarks.search [--rows 1000000] [--dim 512] [--memory 4GB]

Builds an index of clustered vectors by launch/index.py in a process of its own, whose peak of
resident memory is printed. Queries are new vectors of the same clusters, one at a time, on one
thread. Then exact search of 100,000 vectors beside the product of queries and vectors alone.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import faiss
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xmodal.data.storage import open_storage
from xmodal.evaluation.metrics.similarity import Similarity
from xmodal.evaluation.metrics.top_k import top_k
from xmodal.search.embeddings import INFO, DataInfo, EmbeddingsInfo, ModelInfo
from xmodal.search.index_folder import IndexFolder
from xmodal.search.nearest_rows import TILE, nearest_rows
from xmodal.search.own_score import KnownLengths
from xmodal.search.part_files import write_part

K = 10
QUERIES = 500
CLUSTERS = 10_000
SPREAD = 0.8  # length of what is added to a centre of length 1
PART = 20_000  # rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--memory", default="4GB")
    parser.add_argument("--folder", help="where the vectors are written for the time of the run")
    args = parser.parse_args()
    with TemporaryDirectory(dir=args.folder) as folder:
        write_embeddings(Path(folder, "embeddings"), args.rows, args.dim)
        build(Path(folder), args.memory)
        torch.set_num_threads(1)
        faiss.omp_set_num_threads(1)
        approximate(Path(folder, "index"), args.dim)
    exact(100_000, args.dim)


def clustered(rows: int, dim: int, seed: int) -> Tensor:
    """Return vectors of length 1 about the same centres for every seed, float32."""
    centres = torch.randn(CLUSTERS, dim, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    which = torch.randint(CLUSTERS, (rows,), generator=generator)
    noise = torch.randn(rows, dim, generator=generator)
    return F.normalize(F.normalize(centres)[which] + SPREAD * F.normalize(noise))


def write_embeddings(folder: Path, rows: int, dim: int) -> None:
    parts = -(-rows // PART)
    shards = [f"{number:06d}.tar" for number in range(parts)]
    info = EmbeddingsInfo(
        model=ModelInfo(source="none", method="clip", digest="none"),
        data=DataInfo(url="none", fingerprint="none", shards=shards),
        dim=dim,
        embeddings_per_item=1,
        dtype="float16",
        sides=["images"],
        parts=parts,
    )
    for number in range(parts):
        first = number * PART
        vectors = clustered(min(PART, rows - first), dim, 1 + number).numpy()
        records = [{"key": str(first + n), "shard": shards[number]} for n in range(len(vectors))]
        with write_part(str(folder), number, info, "none", open_storage("")) as part:
            part.add("images", vectors, records)
    info.samples, info.rows, info.faults, info.dropped = rows, {"images": rows}, {}, {}
    (folder / INFO).write_text(info.model_dump_json())


def build(folder: Path, memory: str) -> None:
    start = time.monotonic()
    command = [sys.executable, "launch/index.py", str(folder / "embeddings")]
    command += ["--to", str(folder / "index"), "--kind", "ivf", "--memory", memory]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "2"})
    seconds = time.monotonic() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"built in {seconds:.0f} s, peak of resident memory {peak / 1e9:.2f} GB", flush=True)


def approximate(index: Path, dim: int) -> None:
    """Print recall and time of single queries beside those of faiss' flat index."""
    side = IndexFolder.open(index).side("images")
    queries = clustered(QUERIES, dim, 10**6).half().float()
    flat = faiss.IndexFlatIP(dim)
    for part in side.vectors.split(PART):
        flat.add(part.float().numpy())
    limits = flat.search(queries.numpy(), K)[0][:, -1]
    similarity = Similarity(KnownLengths(side.info.longest))
    found = [nearest_rows(side, query, K, similarity)[0] for query in queries]
    # What scores as high as the tenth of all is as good; the two round in their own ways.
    hits = sum(
        int((s.numpy() >= limit - 1e-6).sum()) for s, limit in zip(found, limits, strict=True)
    )
    ours = [seconds(lambda q=q: nearest_rows(side, q, K, similarity)) for q in queries]
    flats = [seconds(lambda q=q: flat.search(q[None].numpy(), K)) for q in queries[:50]]
    print(f"xmodal: recall@{K} {hits / (K * len(queries)):.4f}, {_times(ours)}")
    print(f"faiss, flat: recall@{K} 1.0000, {_times(flats)}", flush=True)


def exact(rows: int, dim: int) -> None:
    """Print the time of exact search beside that of the product alone."""
    vectors = clustered(rows, dim, 1)
    stored, score = vectors.half(), KnownLengths(1.01)
    for count in (1, 1000):
        queries = clustered(count, dim, 10**6)
        repeats = 5 if count > 1 else 50
        product, search = [], []
        for _ in range(repeats):  # in turns
            product.append(seconds(torch.mm, queries, vectors.T))
            search.append(seconds(top_k, queries, stored, K, score, TILE))
        a, b = median(search), median(product)
        print(
            f"exact search of {rows:,} × {dim}, {count:,} queries: {1e3 * a:.1f} ms, "
            f"the product alone {1e3 * b:.1f} ms, ratio {a / b:.2f}",
            flush=True,
        )


def seconds(work: Callable[..., object], *given: object) -> float:
    start = time.process_time()
    work(*given)
    return time.process_time() - start


def _times(found: list[float]) -> str:
    mean, slow = 1e3 * np.mean(found), 1e3 * np.quantile(found, 0.99)
    return f"{1e3 * median(found):.2f} ms a query (mean {mean:.2f}, 99 % within {slow:.2f})"


if __name__ == "__main__":
    main()
