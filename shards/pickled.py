"""Pickled NumPy arrays, read without executing any code in the pickle."""

import pickle
import re
from pathlib import Path
from typing import Any

from xmodal.errors import UserError


def read_pickled(path: Path) -> Any:
    """Read an .npy file of one Python object, as Python 2 wrote it: its arrays become lists.

    Lists, dicts, texts, numbers, and NumPy's arrays and scalars of them are accepted; a pickle with
    other names, or a broken one, raises `UserError`.
    """
    import numpy as np

    try:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            (document,) = _Restricted(file, encoding="latin1").load()
            return document
    except _RefusedError as error:
        raise UserError(f"{path} is refused: its pickle asks for {error}") from None
    except Exception as error:  # an unpickler raises whatever the bytes lead it to
        raise UserError(f"{path} is no .npy file of one object, or damaged: {error!r}") from None


class _RefusedError(Exception):
    pass


class _Restricted(pickle.Unpickler):
    """An unpickler that knows the names in arrays, and for each something harmless.

    NumPy's own would not do: `ndarray` and `dtype` make arrays of objects out of any bytes, which
    is as good as running them.
    """

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray"):
            if name == "ndarray":
                return None  # only ever the first argument of the next
            if name in _STAND_INS:
                return _STAND_INS[name]
        raise _RefusedError(f"{module}.{name}")


class _Kind:
    """A dtype of numbers, texts or objects."""

    def __init__(self, code: str, *_: object):
        if not re.fullmatch(r"[biufSUO]\d*", code):
            raise _RefusedError(f"numpy.dtype({code!r})")
        self._code = code
        self._byte_order: Any = "="

    def __setstate__(self, state: tuple) -> None:
        self._byte_order = state[1]

    def values(self, data: Any) -> Any:
        """The flat array of these bytes, or of this list of objects."""
        import numpy as np

        if self._code.startswith("O"):
            return np.fromiter(data, dtype=object)
        kind = np.dtype(self._code).newbyteorder(self._byte_order)
        return np.frombuffer(_as_bytes(data), kind)


class _Array(list):
    """An array as nested lists."""

    def __init__(self, *_: object):
        super().__init__()

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, is_fortran, data = state
        values = kind.values(data).reshape(shape, order="F" if is_fortran else "C").tolist()
        self[:] = values if shape else [values]


def _scalar(kind: _Kind, data: Any) -> Any:
    return kind.values(data).item()


def _as_bytes(data: bytes | str) -> bytes:
    return data.encode("latin1") if isinstance(data, str) else data


_STAND_INS = {"_reconstruct": _Array, "dtype": _Kind, "scalar": _scalar}
