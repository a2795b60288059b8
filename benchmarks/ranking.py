"""Time of exact ranks beside that of the bare product of all images with all texts, in one run.

    python -m benchmarks.ranking [--images 5000] [--dim 512] [--repeats 3]

Five texts an image, float32, one thread, processor time. The embeddings are those of

    trained     texts near their image, as after training
    untrained   random ones: many pairs are too near for float32 to tell
    duplicates  fifty different ones: all is tied, and has to be decided exactly
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.beside import row, say
from benchmarks.measure import hardware
from xmodal.evaluation.metrics.ranking import count_ranks

TILE = 2016  # of the bare product: the fastest here


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in ("trained", "untrained", "duplicates"):
        given = embeddings(name, args.images, args.dim)
        ranks, product = [], []
        for _ in range(args.repeats):  # in turns
            product.append(seconds(multiply, *given[:2]))
            ranks.append(seconds(count_ranks, *given))
        found = (statistics.median(ranks), statistics.median(product))
        say(row(f"ranks/{name}", *found, "s", hardware()), "product")


def embeddings(name: str, count: int, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return unit vectors of images and of five texts an image, and which belong together."""
    generator = torch.Generator().manual_seed(0)
    place = torch.arange(5 * count)
    images, texts = (torch.randn(n, dim, generator=generator) for n in (count, 5 * count))
    if name == "trained":
        texts += images[place // 5]
    if name == "duplicates":
        images, texts = images[torch.arange(count) % 50], texts[place % 50]
    return F.normalize(images), F.normalize(texts), torch.stack([place // 5, place], 1)


def multiply(images: Tensor, texts: Tensor) -> None:
    for rows in images.split(TILE):
        for columns in texts.split(TILE):
            rows @ columns.T


def seconds(work: Callable[..., object], *given: Tensor) -> float:
    start = time.process_time()
    work(*given)
    return time.process_time() - start


if __name__ == "__main__":
    main()
