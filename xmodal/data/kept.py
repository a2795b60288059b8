"""Samples of a shard that a keep-list names."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from xmodal.data.digests import digest_of
from xmodal.data.storage import is_remote
from xmodal.errors import UserError


@dataclass(frozen=True)
class Kept:
    """Samples kept of the `total` samples of a shard.

    `numbers` are their numbers in the tar, (samples,) int32, rising. `weights` are the expected
    numbers of their occurrences in an epoch, (samples,) float32; None: once each. Both are arrays,
    since a keep-list may name a hundred million samples.
    """

    total: int
    numbers: np.ndarray = field(compare=False, repr=False)
    weights: np.ndarray | None = field(default=None, compare=False, repr=False)
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        weights = b"" if self.weights is None else self.weights.astype("<f4").tobytes()
        object.__setattr__(self, "digest", digest_of(self.numbers_digest.encode() + weights))

    @cached_property
    def numbers_digest(self) -> str:
        """Digest of the samples, whatever their weights."""
        return digest_of(self.numbers.astype("<i4").tobytes())


def check_keep_list(url: str) -> None:
    """Raise `UserError` for a keep-list that is not on the disk or of another format; buckets are
    not asked.
    """
    if url.endswith(".npy"):
        to = url.removesuffix(".npy")
        raise UserError(
            f"keep-list {url} is of DataComp's format, and training reads parquet: run "
            f"`python launch/curate.py keep-list EMBEDDINGS --from {url} --to {to}` "
            f"and name {to}/keep.parquet"
        )
    if not is_remote(url) and not Path(url).is_file():
        raise UserError(f"keep-list {url} is missing: restore it, or name another file")
