"""Arrays of a NumPy `.npz`, mapped from the disk: nothing is read before it is used."""

import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from xmodal.errors import UserError
from xmodal.tensor_files import check_tensor_file

_LOCAL_HEADER = struct.Struct("<26xHH")  # of a member of a zip file: lengths of name and extra


def map_arrays(path: Path) -> dict[str, Any]:
    """Return the arrays of a file by name, read-only.

    Raises `UserError` for a file that is compressed, damaged, or holds objects.
    """
    check_tensor_file(path)
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            return {
                member.filename.removesuffix(".npy"): _mapped(path, file, member.header_offset)
                for member in archive.infolist()
            }
    except (zipfile.BadZipFile, ValueError, EOFError, struct.error) as error:
        raise UserError(f"{path} holds no arrays, or is damaged: {error}") from None


def _mapped(path: Path, file: BinaryIO, offset: int) -> Any:
    """Return the array of the member of a zip file that begins at an offset."""
    file.seek(offset)
    name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    file.seek(name + extra, 1)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"its arrays are of version {version}")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject or not shape:
        # A mapping has no object, and no number without dimensions.
        return np.lib.format.read_array(_rewound(file, offset, name + extra), allow_pickle=False)
    order: Any = "F" if is_fortran else "C"
    return np.memmap(path, dtype, "r", offset=file.tell(), shape=shape, order=order)


def _rewound(file: BinaryIO, offset: int, names: int) -> BinaryIO:
    file.seek(offset + _LOCAL_HEADER.size + names)
    return file
