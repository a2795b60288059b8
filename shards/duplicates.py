"""Detection of identical images under different ids.

Tables of URLs often have one row per caption, which becomes one sample per caption: the same image
five times. Without a common `image_id`, training uses the captions of an image as negatives of each
other, and evaluation counts four of five relevant items as wrong.
"""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

_LIMIT = 20_000_000  # digests in memory, 24 bytes each
_ROW = np.dtype([("image", "<u8"), ("image_id", "<u8"), ("tar", "<u4"), ("number", "<u4")])


class ImageDigests:
    """Digests of the images of a tar and of their ids, by the number of the sample from 1."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, int, int, int]] = []

    def add(self, image: bytes, image_id: str, number: int) -> None:
        """Add the image of a sample."""
        text = image_id.encode("utf-8", "surrogatepass")
        self._rows.append((_digest(image), _digest(text), 0, number))

    @property
    def rows(self) -> np.ndarray:
        """The digests, 24 bytes an image."""
        return np.array(self._rows, _ROW)


class Duplicates:
    """Digests of all tars; of more than `limit`, those of a random part of the images.

    Equal images have the same digest, so that a part of the digests has all copies of its images.
    """

    def __init__(self, tars: Sequence[str], limit: int = _LIMIT) -> None:
        self.tars, self.limit = tars, limit
        self.part = 0  # one image of 2 ** part is kept
        self._kept: list[np.ndarray] = []
        self._number = {tar: number for number, tar in enumerate(tars)}

    def add(self, tar: str, rows: np.ndarray) -> None:
        """Add the digests of a tar."""
        rows = rows[self._is_kept(rows)]
        rows["tar"] = self._number[tar]
        self._kept.append(rows)
        while sum(map(len, self._kept)) > self.limit:
            self.part += 1
            self._kept = [rows[self._is_kept(rows)] for rows in self._kept]

    def __str__(self) -> str:
        """Return a line about images with several ids; empty if there are none."""
        rows = np.sort(
            np.concatenate([np.empty(0, _ROW), *self._kept]), order=["image", "tar", "number"]
        )
        if not len(rows):
            return ""
        begins = np.flatnonzero(np.diff(rows["image"], prepend=~rows["image"][:1]))
        ends = np.append(begins[1:], len(rows))
        several = [
            rows[begin:end] for begin, end in zip(begins, ends, strict=True) if end - begin > 1
        ]
        groups = [group for group in several if _has_several_ids(group)]
        if not groups:
            return ""
        about, scale = ("about ", 2**self.part) if self.part else ("", 1)
        images, samples = scale * len(groups), scale * sum(map(len, groups))
        one, other = (f"{self.tars[row['tar']]} sample {row['number']}" for row in groups[0][:2])
        return (
            f"{about}{images:,} images occur several times under different ids, in {samples:,} "
            f"samples ({one} and {other} have the same bytes): give samples of one image the same "
            "image_id in their JSON, else its captions are negatives of each other, and evaluation "
            "counts relevant items as wrong"
        )

    def _is_kept(self, rows: np.ndarray) -> np.ndarray:
        return rows["image"] % np.uint64(2**self.part) == 0


def _has_several_ids(group: np.ndarray) -> bool:
    return len(set(group["image_id"].tolist())) > 1


def _digest(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest())
