"""Features in NumPy's format, as samples have them: read without a copy, and never unpickled."""

import io
import math
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from xmodal.data.decode import BadSample
from xmodal.data.limits import MAX_SAMPLE_BYTES

_FLOAT32 = np.dtype("<f4")
_MAGIC = b"\x93NUMPY\x01\x00"
_MAX_ARRAY_HEADER = 10_000  # bytes, NumPy's own limit


def read_array(data: Any, side: str) -> np.ndarray:
    """Return the float32 features in the bytes of a `SIDE.npy`; raises `BadSample`."""
    start = 10 + data[8] + 256 * data[9] if len(data) > 10 else 0
    dtype, shape, order = _header(bytes(data[:start]) if start <= _MAX_ARRAY_HEADER else b"")
    count = math.prod(shape)
    if dtype is None or len(data) != start + count * dtype.itemsize:
        raise BadSample(f"{side}.npy is no array of numbers in NumPy's format 1, or is truncated")
    if side == "text" and (len(shape) not in (2, 3) or not count):
        raise BadSample("text.npy has no row a caption")
    if side != "text" and (len(shape) not in (1, 2) or not count):
        raise BadSample(f"{side}.npy has another shape than (features,) or (regions, features)")
    if count * 4 > MAX_SAMPLE_BYTES:
        raise BadSample(f"{side}.npy has over {MAX_SAMPLE_BYTES // 4:,} values")
    values: np.ndarray = np.ndarray(shape, dtype, data, start, order=order)
    if dtype is not _FLOAT32 or order == "F":
        with np.errstate(over="ignore"):
            values = values.astype(np.float32, order="C")
    # A finite sum of squares tells of all of them, at a fraction of the time and without warnings.
    if not math.isfinite(np.vdot(values, values)) and not np.isfinite(values).all():
        raise BadSample(f"{side}.npy has values that are not finite")
    return values


@lru_cache(maxsize=1024)
def _header(text: bytes) -> tuple[np.dtype | None, tuple[int, ...], Literal["C", "F"]]:
    """Read an array's kind, shape and order; what would need a pickle has no kind."""
    if not text.startswith(_MAGIC):
        return None, (), "C"
    try:
        file = io.BytesIO(text[len(_MAGIC) :])
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    except Exception:  # whatever the bytes lead Python's parser to
        return None, (), "C"
    if dtype.kind not in "fiu" or min(shape, default=0) < 0:
        return None, (), "C"
    return (_FLOAT32 if dtype == _FLOAT32 else dtype), shape, "F" if fortran else "C"
