"""Folder that embeddings are written into: begun once, resumed, and finished when all is there."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from xmodal.data.storage import is_remote, open_storage
from xmodal.data.storage.config import StorageConfig
from xmodal.errors import UserError
from xmodal.runs.lock import acquire_run_lock
from xmodal.runs.run import LOCK
from xmodal.search.embeddings import (
    INFO,
    EmbeddingsInfo,
    finished_parts,
    read_info,
)
from xmodal.search.part_files import PartSummary, add_counts, read_summary

_PROBE = "writable.part"
_READERS = 16  # threads that read the summaries of parts


class OutputFolder:
    """Folder of embeddings to be, on disk or in a bucket; rank 0 alone changes it by this class."""

    def __init__(self, url: str, access: Iterable[StorageConfig] = ()) -> None:
        self.url = url.rstrip("/") or url
        self.storage = open_storage(self.url, access)

    def check(self, fingerprint: str, dtype: str) -> None:
        """Lock the folder, and raise `UserError` where it cannot be written, or holds anything but
        embeddings of that data and that type.
        """
        if not is_remote(self.url):
            self._lock = acquire_run_lock(Path(self.url), f"--to {self.url}")
        names = self.storage.list(self.url)
        found = read_info(self.url, self.storage)
        if found is None:
            ours = (LOCK, _PROBE)
            others = [*self.storage.folders(self.url), *(n for n in names if n not in ours)]
            others = [name for name in others if not name.endswith(".part")]
            if others:
                raise UserError(
                    f"--to {self.url} holds something else ({others[0]}) and no {INFO}; name "
                    "another folder"
                )
        else:
            self._refuse(data=(found.data.fingerprint, fingerprint), dtype=(found.dtype, dtype))
        self.storage.write(f"{self.url}/{_PROBE}", b"")
        for name in {*names, _PROBE}:
            if name.endswith(".part"):  # of this, or of a process that was killed
                self.storage.remove(f"{self.url}/{name}")

    def begin(self, info: EmbeddingsInfo) -> None:
        """Write the description of the embeddings to come, or compare it with the one there is.

        Raises `UserError` where the folder holds embeddings of another model.
        """
        found = read_info(self.url, self.storage)
        if found is not None:
            self._refuse(
                model=(_named(found), _named(info)),
                weights=(found.model.digest, info.model.digest),
                sides=(", ".join(found.sides), ", ".join(info.sides)),
            )
            info = found.model_copy(update={"model": info.model, "data": info.data})
        if info != found:
            self._write(info)

    def finished(self) -> set[int]:
        """Return the numbers of the parts that are written."""
        return finished_parts(self.url, self.storage)

    def summarise(self, model: str, shards: Sequence[str]) -> PartSummary:
        """Return the sum of the summaries of all parts.

        Raises `UserError` for one that is not of the digests of the model and of its shard.
        """
        parts = range(len(shards))
        with ThreadPoolExecutor(_READERS) as pool:
            found = pool.map(partial(read_summary, self.url, storage=self.storage), parts)
        total = PartSummary(model, "")
        for number, (one, shard) in enumerate(zip(found, shards, strict=True)):
            if (one.model, one.shard) != (model, shard):
                raise UserError(
                    f"part {number} of {self.url} is of another model or shard; remove its "
                    "metadata, and rerun"
                )
            total.samples += one.samples
            total.rows = {side: total.rows.get(side, 0) + n for side, n in one.rows.items()}
            total.faults = add_counts(total.faults, one.faults)
            total.dropped = add_counts(total.dropped, one.dropped)
        return total

    def finish(self, total: PartSummary, speed: float | None) -> EmbeddingsInfo:
        """Write what is known now that all parts are there, and return it.

        `speed`, in samples a second, is that of before where nothing was embedded.
        """
        found = read_info(self.url, self.storage)
        assert found is not None
        update = {
            "samples": total.samples,
            "rows": {side: total.rows.get(side, 0) for side in found.sides},
            "faults": total.faults,
            "dropped": total.dropped,
            "samples_per_second": found.samples_per_second if speed is None else round(speed, 1),
        }
        info = found.model_copy(update=update)
        if info != found:
            self._write(info)
        return info

    def _write(self, info: EmbeddingsInfo) -> None:
        text = info.model_dump_json(indent=1) + "\n"
        self.storage.write(f"{self.url}/{INFO}", text.encode("utf-8", "surrogatepass"))

    def _refuse(self, **values: tuple[str, str]) -> None:
        """Raise `UserError` for the first pair of values, found and wanted, that differ."""
        for name, (found, wanted) in values.items():
            if found != wanted:
                raise UserError(
                    f"--to {self.url} holds embeddings of other {name} ({found}, not {wanted}); "
                    "name another folder"
                )


def _named(info: EmbeddingsInfo) -> str:
    """Return a model's method and checkpoint, for a message."""
    return " ".join(filter(None, (info.model.method, info.model.checkpoint, info.model.weights)))
