"""Checkpoint engine for DeepSpeed that writes files while training continues.

DeepSpeed's own decoupled engine blocks the optimiser's next step until all files are written, has
every rank write the weights to the same file, and cannot load ZeRO's files.
"""

from concurrent.futures import Future, ThreadPoolExecutor, wait
from io import BytesIO
from pathlib import Path
from typing import Any

from xmodal.runs.checkpoints.integrity import File, checksum
from xmodal.runs.deepspeed_adapter import STATE_TYPES, CheckpointEngine
from xmodal.tensor_files import load_tensors


class OverlappingWriter(CheckpointEngine):
    """Checkpoint engine that writes files in a thread.

    `save` returns once the bytes are in memory; they stay there until they are written.
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
        """Begin to write a file with the given content."""
        self._files.append(self._thread.submit(_write, path, content))

    def load(self, path: str, map_location: Any = None) -> Any:  # noqa: ARG002
        """Load a file onto the CPU; no code in it is executed."""
        return load_tensors(Path(path), types=STATE_TYPES)

    def commit(self, info: Any) -> bool:
        """Note that all files of a checkpoint have been begun."""
        return bool(self.behind.commit(info))

    def is_done(self) -> bool:
        """Return True if this process has written all its files of the checkpoint."""
        return all(file.done() for file in self._files)

    def wait(self) -> list[File]:
        """Wait until this process's files of the checkpoint are written, and return them.

        Raises `OSError` if one cannot be written, after all others are.
        """
        wait(self._files)
        return [file.result() for file in self._files]

    def close(self) -> None:
        """Write the remaining files and end the thread."""
        self._thread.shutdown()


def _write(path: Path, content: BytesIO) -> File:
    return path.name, path.write_bytes(content.getbuffer()), checksum(content)
