"""Rows of .parquet, and the images that it may hold itself.

An image is a column of bytes, as img2dataset writes them, or of structs of `bytes` and `path`, as
Hugging Face's `datasets` does. Its bytes are read twice, in batches: for their digest, by which
equal images are one, and when the shard is written. Neither holds more than a batch in memory.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from shards.files import Skipped
from xmodal.errors import UserError

_BATCH = 32  # rows whose images are in memory at once
_BUFFER = 2**20  # bytes of a column that are read at a time, rather than all of a row group

Record = tuple[int, Mapping[str, Any]]


@dataclass(frozen=True)
class StoredImage:
    """An image in a table: where it lies, its digest, and what the table calls it.

    Calling it returns its bytes; raises `Skipped` where the table has changed.
    """

    table: Path
    column: str
    row: int  # from 0
    digest: str
    path: str

    def __call__(self) -> bytes:
        data = _open(self.table, self.column).image(self.row)
        if data is None or _digest(data) != self.digest:
            raise Skipped("the table has changed", f"{self.table}, row {self.row + 1}")
        return data


def read_parquet(
    table: Path, columns: Callable[[Sequence[str]], dict[str, str]]
) -> Iterator[Record]:
    """Read the rows, of the columns that are wanted; an image in them is a `StoredImage`.

    `columns` finds these among all, by what they are. Raises `UserError` for what is no parquet.
    """
    import pyarrow as pa

    try:
        file = _open_file(table)
        wanted = columns(file.schema_arrow.names)
        names, image = list(dict.fromkeys(wanted.values())), wanted["image"]
        row = 0
        for batch in file.iter_batches(_BATCH, columns=names, use_threads=False):
            for record in batch.to_pylist():
                record[image] = _cell(record[image], table, image, row)
                row += 1
                yield row, record
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{table} cannot be read: {error}") from None


def _cell(value: Any, table: Path, column: str, row: int) -> Any:
    """Return what a cell is: an image, also as the only one of a list, its path, or the value."""
    value = _only(value)
    data, path = _parts(value)
    if data is not None:
        return StoredImage(table, column, row, _digest(data), path if isinstance(path, str) else "")
    return path if _is_image(value) and not value["bytes"] else value


def _only(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _is_image(value: Any) -> bool:
    return isinstance(value, dict) and "bytes" in value


def _parts(value: Any) -> tuple[bytes | None, Any]:
    if _is_image(value):
        data, path = value["bytes"], value.get("path")
    else:
        data, path = value, None
    return data if isinstance(data, bytes) and data else None, path


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()


def _open_file(table: Path) -> Any:
    from pyarrow import parquet

    return parquet.ParquetFile(table, buffer_size=_BUFFER, pre_buffer=False)


@lru_cache(2)
def _open(table: Path, column: str) -> "_Images":
    return _Images(table, column)


class _Images:
    """The images of a column, read forwards: rows are asked for in order, mostly."""

    def __init__(self, table: Path, column: str) -> None:
        self.table, self.column = table, column
        self._file: Any = None
        self._batches: Iterator[Any] = iter(())
        self._begin = self._end = 0  # rows of the present batch
        self._values: list[Any] = []
        self._group_end = 0

    def image(self, row: int) -> bytes | None:
        """Return the bytes of a row's image, None where it has none; raises `Skipped`."""
        import pyarrow as pa

        try:
            if not self._end <= row < self._group_end and not self._begin <= row < self._end:
                self._go_to_group(row)
            while row >= self._end:
                self._read_batch()
        except (pa.ArrowException, OSError, StopIteration) as error:
            raise Skipped("the table cannot be read", f"{self.table}: {error}") from None
        return _parts(_only(self._values[row - self._begin]))[0]

    def _go_to_group(self, row: int) -> None:
        self._file = self._file or _open_file(self.table)
        begin = 0
        for group in range(self._file.num_row_groups):
            end = begin + self._file.metadata.row_group(group).num_rows
            if row < end:
                self._batches = self._file.iter_batches(
                    _BATCH, row_groups=[group], columns=[self.column], use_threads=False
                )
                self._begin = self._end = begin
                self._group_end = end
                return
            begin = end
        raise StopIteration

    def _read_batch(self) -> None:
        batch = next(self._batches)
        self._values = batch.column(0).to_pylist()
        self._begin, self._end = self._end, self._end + len(self._values)
