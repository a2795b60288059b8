"""Images that are duplicates of each other, and so no negatives, though their ids differ.

They are named by a parquet file with one row an image and columns `group` and `image_id`, such as
`groups.parquet` of `curate duplicates`.
"""

from collections.abc import Iterable, Mapping

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xmodal.data.samples import hash_id
from xmodal.data.storage import open_storage
from xmodal.data.storage.config import StorageConfig
from xmodal.errors import UserError, printable

ADVICE = "name the groups.parquet of `curate duplicates`, with columns group and image_id"


def read_duplicates(url: str, access: Iterable[StorageConfig] = ()) -> Mapping[int, int]:
    """Return the id that images of a group share, by the hashes of their ids; others are not there.

    Groups that have an image in common are one. Raises `UserError` where the file is none of these.
    """
    first: dict[int, int] = {}  # of an image: one of the same group, itself of the first

    def find(image: int) -> int:
        while (earlier := first.setdefault(image, image)) != image:
            image = earlier
        return image

    of_group: dict[int, int] = {}
    for group, image_id in _rows(url, access):
        image = find(hash_id(image_id))
        first[image] = find(of_group.setdefault(group, image))
    return {image: find(image) for image in first}


def _rows(url: str, access: Iterable[StorageConfig]) -> Iterable[tuple[int, str]]:
    try:
        table = pq.read_table(pa.BufferReader(open_storage(url, access).read(url)))
    except FileNotFoundError:
        raise UserError(f"duplicates {url} is missing: restore it, or name another") from None
    except (pa.ArrowException, OSError):
        raise UserError(f"duplicates {url} is no parquet file, or is damaged: {ADVICE}") from None
    kinds = {"group": pa.types.is_integer, "image_id": pa.types.is_string}
    for name, is_right in kinds.items():
        if table.schema.names.count(name) != 1 or not is_right(table.schema.field(name).type):
            held = printable(", ".join(table.schema.names[:8]))
            raise UserError(f"duplicates {url} has no such column {name}, but {held}: {ADVICE}")
        if pc.any(table[name].is_null()).as_py():
            raise UserError(f"duplicates {url}: a row has no {name}: {ADVICE}")
    return zip(table["group"].to_pylist(), table["image_id"].to_pylist(), strict=True)
