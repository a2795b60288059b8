"""Matrices of features as MATLAB saves them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xmodal.errors import UserError

if TYPE_CHECKING:
    import numpy as np


def read_matrices(path: Path, names: Sequence[str]) -> "list[np.ndarray]":
    """Read matrices (rows, columns) of a .mat file by name, sparse ones made dense.

    Raises `UserError` if the file cannot be read or has no such matrix.
    """
    from scipy.io import loadmat
    from scipy.sparse import issparse

    try:
        document = loadmat(path)
    except NotImplementedError:
        raise UserError(f"{path} is in MATLAB's format 7.3: save it with -v7") from None
    except Exception as error:  # SciPy's reader raises whatever the bytes lead it to
        raise UserError(f"{path} is no MATLAB file, or is truncated: {error}") from None
    there = [name for name in document if not name.startswith("__")]
    missing = [name for name in names if name not in there]
    if missing:
        raise UserError(f"{path} has no {missing[0]}: it has {', '.join(there)}")
    found = [document[name] for name in names]
    return [matrix.toarray() if issparse(matrix) else matrix for matrix in found]
