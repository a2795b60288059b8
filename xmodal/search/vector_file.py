"""Reading of a file of vectors without mapping it: what was read takes no memory afterwards."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np


class VectorFile:
    """Array (rows, dim) in NumPy's format."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            shape, _, self.dtype = np.lib.format.read_array_header_1_0(file)
            self.offset = file.tell()
        self.rows, self.dim = shape

    def __len__(self) -> int:
        return int(self.rows)

    def chunks(self, num_bytes: int, multiple: int = 1) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the first row and the rows, float32, of chunks of so many bytes as float32.

        Of all but the last chunk the rows are a multiple of `multiple`.
        """
        size = max(1, num_bytes // (4 * self.dim * multiple)) * multiple
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for start in range(0, len(self), size):
                count = min(size, len(self) - start)
                rows = np.fromfile(file, self.dtype, count * self.dim)
                yield start, rows.reshape(count, self.dim).astype(np.float32)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return chosen rows, float32."""
        taken = np.empty((len(rows), self.dim), self.dtype)
        each = self.dim * self.dtype.itemsize
        with self.path.open("rb", buffering=0) as file:
            for place, row in enumerate(rows.tolist()):
                file.seek(self.offset + row * each)
                file.readinto(taken[place].data.cast("B"))
        return taken.astype(np.float32)


def sample(total: int, count: int) -> np.ndarray:
    """Return `count` of `total` numbers, drawn at random but always the same, in order."""
    if count >= total:
        return np.arange(total)
    return np.sort(np.random.default_rng(0).choice(total, count, replace=False))
