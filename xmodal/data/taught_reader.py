"""Samples together with a teacher's embeddings of them, from two shard sets side by side."""

from collections.abc import Iterable, Sequence
from copy import copy

from xmodal.data.manifest import Manifest
from xmodal.data.reader import SampleReader
from xmodal.data.samples import RawSample
from xmodal.errors import UserError


def stored_key(number: int, key: str) -> str:
    """Return the key of a sample's features: its number sets apart samples of one key."""
    return f"{number:09d}/{key}"


class TaughtReader(SampleReader):
    """Reads samples, each with `teacher.image.npy` and `teacher.text.npy` among its files.

    `features` is a set of as many samples in the same order. Raises `UserError` where it is not.
    """

    def __init__(self, manifest: Manifest, features: Manifest) -> None:
        super().__init__(manifest)
        self.features = SampleReader(features)
        if len(self.features) != len(self):
            raise UserError(
                f"{features.url} has features of {len(self.features):,} samples, and "
                f"{manifest.url} has {len(self):,}; remove that folder, and rerun"
            )

    def load(
        self, numbers: Sequence[int], extensions: Iterable[str] | None = None
    ) -> list[RawSample]:
        """Return samples in the given order; with `extensions`, only those files of them."""
        samples = super().load(numbers, extensions)
        if extensions is not None:
            return samples
        stored = self.features.load(numbers)
        return [self._joined(*each) for each in zip(numbers, samples, stored, strict=True)]

    def will_load(self, numbers: Sequence[int]) -> None:
        """Announce that samples, mostly adjacent ones, are loaded soon."""
        super().will_load(numbers)
        self.features.will_load(numbers)

    def _joined(self, number: int, sample: RawSample, stored: RawSample) -> RawSample:
        if stored.key != stored_key(number, sample.key):
            raise UserError(
                f"{stored.shard} has features of sample {stored.key}, where "
                f"{sample.shard} has {sample.key}; remove its folder, and rerun"
            )
        taught = {
            f"teacher.{name}": stored.files[name]
            for name in ("image.npy", "text.npy")
            if name in stored.files
        }
        joined = copy(sample)
        joined.files = {**sample.files, **taught}
        return joined
