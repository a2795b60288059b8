"""A checkpoint engine for DeepSpeed that writes files while training continues.

DeepSpeed's own one of that kind, the decoupled engine, holds the optimiser's next step until all is
written, has every rank write the weights to the same file, and does not read ZeRO's files again.
"""

from concurrent.futures import Future, ThreadPoolExecutor, wait
from io import BytesIO
from pathlib import Path
from typing import Any

from xmodal.runs.checkpoints.integrity import File, checksum
from xmodal.runs.deepspeed_adapter import STATE_TYPES, CheckpointEngine
from xmodal.tensor_files import load_tensors


class OverlappingWriter(CheckpointEngine):
    """Saves what another checkpoint engine would, but writes it meanwhile.

    `save` returns once the bytes are in memory, which holds them until a thread has written them.
    """

    def __init__(self, behind: Any) -> None:
        super().__init__()
        self.behind = behind
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._files: list[Future[File]] = []

    def create(self, info: Any) -> None:
        """Begin a checkpoint."""
        self.behind.create(info)
        self._files = []

    def save(self, state_dict: Any, path: str) -> None:
        """Begin to write a file."""
        content = BytesIO()
        self.behind.save(state_dict, content)
        self.write(Path(path), content)

    def write(self, path: Path, content: BytesIO) -> None:
        """Begin to write a file whose content is at hand."""
        self._files.append(self._thread.submit(_write, path, content))

    def load(self, path: str, map_location: Any = None) -> Any:  # noqa: ARG002
        """Return what was saved as a file, on the CPU; nothing in it is executed."""
        return load_tensors(Path(path), types=STATE_TYPES)

    def commit(self, info: Any) -> bool:
        """Take note that all files of a checkpoint have been begun."""
        return bool(self.behind.commit(info))

    def is_done(self) -> bool:
        """Tell whether nothing of the checkpoint is left to write, in this process."""
        return all(file.done() for file in self._files)

    def wait(self) -> list[File]:
        """Return this process's files of the checkpoint, once they are written.

        Raises `OSError` where one could not be, when all others are.
        """
        wait(self._files)
        return [file.result() for file in self._files]

    def close(self) -> None:
        """End the thread, once all is written."""
        self._thread.shutdown()


def _write(path: Path, content: BytesIO) -> File:
    return path.name, path.write_bytes(content.getbuffer()), checksum(content)
