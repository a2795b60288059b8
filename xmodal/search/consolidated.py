"""Consolidation: the parts of an embeddings folder as one file of vectors and one of records."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from xmodal.activity import tracked
from xmodal.errors import UserError
from xmodal.search.embeddings import Embeddings, Part
from xmodal.search.index_folder import IndexedSide, SideInfo

CHUNK = 32 * 2**20  # bytes of vectors that are in memory at a time


def consolidate(embeddings: Embeddings, side: IndexedSide, folder: Path) -> SideInfo:
    """Write the vectors and the records of a side; return what they are.

    Of the vectors a chunk is in memory at a time, of the records a part. Raises `UserError` where
    the embeddings do not have the rows that they should have, or a vector is not finite.
    """
    rows = embeddings.num_rows(side)
    longest = _write_vectors(embeddings, side, folder / f"{side}.npy")
    _write_records(embeddings, side, folder / f"{side}.arrow")
    return SideInfo(rows=rows, longest=longest)


def _write_vectors(embeddings: Embeddings, side: IndexedSide, path: Path) -> float:
    """Write all vectors of a side into one array; return the length of the longest, rounded up."""
    info, longest, written = embeddings.info, 0.0, 0
    total = embeddings.num_rows(side) * info.embeddings_per_item
    shape = {"descr": np.dtype(info.dtype).str, "fortran_order": False, "shape": (total, info.dim)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, shape)
        for part in tracked(embeddings.parts, f"collecting {side}: part"):
            for chunk in chunks(part.vectors(side)):
                longest = max(longest, _longest(chunk, part, side))
                file.write(chunk.tobytes())
                written += len(chunk)
    _check_rows(embeddings, side, written, total)
    return longest


def chunks(vectors: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rows of an array in chunks of `CHUNK` bytes."""
    size = max(1, CHUNK // max(1, vectors.shape[1] * vectors.itemsize))
    for start in range(0, len(vectors), size):
        yield vectors[start : start + size]


def _longest(chunk: np.ndarray, part: Part, side: IndexedSide) -> float:
    squares = np.einsum("ij,ij->i", chunk, chunk, dtype=np.float64)
    if not np.isfinite(squares).all():
        raise UserError(f"{part.folder}: a vector of {side} of part {part.number} is not finite")
    return float(np.sqrt(squares.max(initial=0)) * (1 + 1e-12))


def _write_records(embeddings: Embeddings, side: IndexedSide, path: Path) -> None:
    """Write a record for each row of a side, as an Arrow file that can be memory-mapped."""
    writer, first, written = None, 0, 0
    with path.open("wb") as file:
        for part in tracked(embeddings.parts, f"collecting records of {side}: part"):
            images = part.metadata()
            table = images if side == "images" else _of_captions(part, images, first)
            writer = writer or pa.ipc.new_file(file, table.schema)
            writer.write_table(table)
            first, written = first + len(images), written + len(table)
        if writer is not None:
            writer.close()
    _check_rows(embeddings, side, written, embeddings.num_rows(side))


def _of_captions(part: Part, images: pa.Table, first: int) -> pa.Table:
    """Return a record for each caption: that of its image, with its own text and the image's row
    in the whole set.
    """
    captions = part.captions()
    table = images.take(captions["row"])
    place = table.schema.get_field_index("caption")
    table = table.set_column(place, "caption", captions["caption"])
    rows = captions["row"].to_numpy() + first
    return table.append_column("row", pa.array(rows, pa.int64()))


def _check_rows(embeddings: Embeddings, side: IndexedSide, found: int, expected: int) -> None:
    if found != expected:
        raise UserError(
            f"{embeddings.url} has {found:,} {side} where embeddings.json says {expected:,}; "
            "embed again"
        )
