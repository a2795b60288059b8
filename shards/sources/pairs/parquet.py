"""Rows of .parquet, and the images that it may hold itself.

An image is a column of bytes, as img2dataset writes them, or of structs of `bytes` and `path`, as
Hugging Face's `datasets` does. Its bytes are read twice, row by row: for their digest, by which
equal images are one, and when the shard is written.

A few kilobytes of parquet can stand for any amount of data: values of a dictionary that rows refer
to, prefixes that values share, pages that are compressed. Hence one row is decoded at a time, and
the sizes of column chunks, rows and the table are bounded.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from shards.files import Skipped
from xmodal.data.limits import MAX_SAMPLE_BYTES
from xmodal.errors import UserError

_MAX_CHUNK_RATIO = 1_000  # of decoded to stored bytes, in chunks over MAX_SAMPLE_BYTES
_MAX_CHUNK_VALUES = 1 << 24  # in the lists of a row group
_MAX_TABLE_BYTES = 1 << 30  # that rows decode to, in tables of less than a hundredth of it
_MAX_TABLE_RATIO = 100  # of decoded to stored bytes, in tables that are larger
_BUFFER = 2**20  # bytes of a column that are read at a time, rather than all of a row group

Record = tuple[int, Mapping[str, Any] | tuple[str, str]]


@dataclass(frozen=True)
class StoredImage:
    """An image in a table: where it lies, its digest, and what the table calls it.

    Calling it returns its bytes; raises `Skipped` if the table has changed.
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

    `columns` finds these among all, by what they are. The record of a row that is too large is a
    pair of texts, why it is none. Raises `UserError` for what is no parquet, and for one whose rows
    decode to far more than it can mean.
    """
    import pyarrow as pa

    try:
        file = _open_file(table)
        wanted = columns(file.schema_arrow.names)
        names, image = list(dict.fromkeys(wanted.values())), wanted["image"]
        room = max(_MAX_TABLE_BYTES, _MAX_TABLE_RATIO * table.stat().st_size)
        for row, (size, record) in enumerate(_rows(file, table, names)):
            room -= size
            if room < 0:
                raise _bomb(table, f"its first {row + 1:,} rows alone")
            if record is not None:
                record[image] = _cell(record[image], table, image, row)
            yield row + 1, record or (f"row over {MAX_SAMPLE_BYTES:,} bytes", "")
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{table} cannot be read: {error}") from None


def _rows(
    file: Any, table: Path, columns: Sequence[str], groups: Sequence[int] | None = None
) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Read the size in bytes and the values of each row; None for one over `MAX_SAMPLE_BYTES`."""
    groups = range(file.num_row_groups) if groups is None else groups
    for group in groups:
        _check_group(file.metadata.row_group(group), table, columns)
    for batch in file.iter_batches(1, row_groups=groups, columns=columns, use_threads=False):
        yield batch.nbytes, batch.to_pylist()[0] if batch.nbytes <= MAX_SAMPLE_BYTES else None


def _check_group(group: Any, table: Path, columns: Sequence[str]) -> None:
    """Raise `UserError` where a row group says that it needs far more memory than it can mean."""
    wanted = tuple(f"{name}." for name in columns)  # a list's path is NAME.list.element
    for chunk in map(group.column, range(group.num_columns)):
        path, stored = chunk.path_in_schema, chunk.total_compressed_size
        is_blown_up = chunk.total_uncompressed_size > max(
            MAX_SAMPLE_BYTES, _MAX_CHUNK_RATIO * stored
        )
        is_long = chunk.num_values > max(group.num_rows, _MAX_CHUNK_VALUES)
        if f"{path}.".startswith(wanted) and (is_blown_up or is_long):
            raise _bomb(table, f"{chunk.num_values:,} values of its column {path}")


def _bomb(table: Path, what: str) -> UserError:
    size = table.stat().st_size
    return UserError(
        f"{table} is refused: {what} decode to far more than its {size:,} bytes can mean; "
        "build from a table without such repetition, or name images by their paths"
    )


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
        self._rows: Iterator[tuple[int, dict[str, Any] | None]] = iter(())
        self._next = self._group_end = 0
        self._value: Any = None  # of the row before `_next`

    def image(self, row: int) -> bytes | None:
        """Return the bytes of a row's image, None where it has none; raises `Skipped`."""
        import pyarrow as pa

        try:
            if not self._next - 1 <= row < self._group_end:
                self._go_to_group(row)
            while row >= self._next:
                self._value = (next(self._rows)[1] or {}).get(self.column)
                self._next += 1
        except (pa.ArrowException, OSError, StopIteration, UserError) as error:
            raise Skipped("the table cannot be read", f"{self.table}: {error}") from None
        return _parts(_only(self._value))[0]

    def _go_to_group(self, row: int) -> None:
        self._file = self._file or _open_file(self.table)
        begin = 0
        for group in range(self._file.num_row_groups):
            end = begin + self._file.metadata.row_group(group).num_rows
            if row < end:
                self._rows = _rows(self._file, self.table, [self.column], [group])
                self._value, self._next, self._group_end = None, begin, end
                return
            begin = end
        raise StopIteration
