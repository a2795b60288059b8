"""Shards of photographs' stand-ins, which sections share."""

from itertools import cycle, islice
from pathlib import Path

from benchmarks.loader import (
    CAPTION,
    SHAPES,
    encode,
    fitting_quality,
    photographs,
    write_shards,
)

SHAPE, NUM_BYTES = SHAPES["500x375"]
DISTINCT = 16  # images, which come again and again: their making takes longer than their use


def photograph_shards(work: Path, count: int) -> Path:
    """Return a folder of shards with so many JPEGs, of noise like photographs, made if missing."""
    folder = work / "photographs"
    if not folder.exists():
        images = list(photographs(None, SHAPE, DISTINCT))
        quality = fitting_quality(images[:2], NUM_BYTES)
        files = [encode(image, quality) for image in images]
        samples = [{"jpg": file, "txt": CAPTION.encode()} for file in islice(cycle(files), count)]
        write_shards(folder, samples)
    return folder
