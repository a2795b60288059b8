"""Pickles of arrays are read, and no other name in them is."""

import io
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.pickled import read_pickled
from xmodal.errors import UserError


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined]
    """Writes texts and bytes as Python 2 did, where they were one."""

    def save_string(self, value: str | bytes) -> None:
        data = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch = pickle._Pickler.dispatch | {  # type: ignore[attr-defined]
        str: save_string,
        bytes: save_string,
    }


def write(path: Path, value: Any) -> Path:
    """Write what `numpy.save` of Python 2 makes of a value."""
    array = np.empty((), dtype=object)
    array[()] = value
    payload = io.BytesIO()
    Python2Pickler(payload, protocol=2).dump(array)
    return write_raw(path, payload.getvalue().replace(b"cnumpy._core.", b"cnumpy.core."))


def write_raw(path: Path, payload: bytes) -> Path:
    """Write this pickle as that of an array of one object."""
    with path.open("wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": ()}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(payload)
    return path


class Runs:
    """What a pickle can do that it should not."""

    def __init__(self, function: Any, *arguments: object):
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_pickled(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_values_of_python_2(tmp_path: Path) -> None:
    value = {
        "texts": ["make red", "caf\xe9"],
        "numbers": [1, 2.5, None, True],
        "matrix": np.arange(6).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big-endian": np.array([1, 258], dtype=">i2"),
        "objects": np.array([[{"a": 1}, 2], [3, [4]]], dtype=object),
        "scalar": np.float32(0.5),
        "same": (array := np.array([7])),
        "again": array,
    }
    assert read_pickled(write(tmp_path / "x.npy", value)) == {
        "texts": ["make red", "caf\xe9"],
        "numbers": [1, 2.5, None, True],
        "matrix": [[0, 1, 2], [3, 4, 5]],
        "columns": [[0, 1, 2], [3, 4, 5]],
        "big-endian": [1, 258],
        "objects": [[{"a": 1}, 2], [3, [4]]],
        "scalar": 0.5,
        "same": [7],
        "again": [7],
    }


def test_values_of_todays_numpy(tmp_path: Path) -> None:
    value: Any = {"ids": np.arange(3), "texts": np.array(["x", "yz"])}
    np.save(tmp_path / "x.npy", value, allow_pickle=True)
    assert read_pickled(tmp_path / "x.npy") == {"ids": [0, 1, 2], "texts": ["x", "yz"]}


@pytest.mark.parametrize(
    ("evil", "name"),
    [
        (lambda path: Runs(os.system, f"touch {path}"), "posix.system"),
        (lambda path: Runs(exec, f"open({path!r}, 'w')"), "__builtin__.exec"),
        (lambda path: Runs(np.save, path, 1), "numpy.save"),
        (lambda path: Runs(Path, path), "pathlib"),
    ],
)
def test_what_would_be_run_is_refused(evil: Any, name: str, tmp_path: Path) -> None:
    trace = tmp_path / "was_run"
    path = write(tmp_path / "x.npy", {"train": [evil(str(trace))]})
    assert f"{path} is refused: its pickle asks for {name}" in refused(path)
    assert not trace.exists()


def test_arrays_are_made_of_no_foreign_memory(tmp_path: Path) -> None:
    # In NumPy's own hands these make objects out of bytes, or arrays of kinds with any fields.
    over = b"\x80\x03]cnumpy\nndarray\n((K\x01tU\x01OC\x08AAAAAAAAtRa."
    assert "'NoneType' object is not callable" in refused(write_raw(tmp_path / "x.npy", over))
    fields = np.zeros(1, dtype=[("a", "O")])
    assert "refused: its pickle asks for numpy.dtype('V8')" in refused(
        write(tmp_path / "y.npy", [fields])
    )


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "x.npy", {"train": [1, 2, 3]})
    whole = path.read_bytes()
    for length in (0, 5, 40, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert f"{path} is no .npy file of one object, or damaged" in refused(path)
    np.save(path, np.arange(4.0))
    assert "damaged" in refused(path)
