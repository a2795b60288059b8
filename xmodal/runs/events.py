"""Truncation of TensorBoard's event files to the step that a run resumes from.

TensorBoard warns of steps that occur twice. A file is a sequence of
records: 8 bytes of length and 4 of checksum, then so many bytes and 4 of checksum (TFRecord).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from xmodal.atomic_files import open_itself

FILES = "events.out.tfevents.*"


def drop_events_after(folder: Path, step: int) -> None:
    """Remove the events of later steps, which the run is about to repeat, from a folder.

    Records that a killed process left incomplete are removed too. Files that are not TensorBoard's
    stay unchanged.
    """
    for path in sorted(folder.glob(FILES)):
        with path.open("rb") as file:
            records = list(_records(file, path.stat().st_size))
        kept = [(record, event) for record, event in records if _is_kept(event, step)]
        if records and not any(event.HasField("summary") for _, event in kept):
            path.unlink()
        elif records and sum(len(record) for record, _ in kept) < path.stat().st_size:
            part = path.with_name(f".{path.name}.part")
            with open_itself(part, "wb") as target:
                target.writelines(record for record, _ in kept)
            part.replace(path)


def _is_kept(event: Any, step: int) -> bool:
    # Marks of a restart, of runs of before, are what TensorBoard warns of.
    return bool(event.step <= step and not event.HasField("session_log"))


def _records(file: BinaryIO, size: int) -> Iterator[tuple[bytes, Any]]:
    """Yield each complete record, as bytes and as an event."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event

    while len(header := file.read(12)) == 12:
        length = int.from_bytes(header[:8], "little") + 4
        if length > size - file.tell():
            return
        body = file.read(length)
        try:
            yield header + body, Event.FromString(body[:-4])
        except DecodeError:
            return
