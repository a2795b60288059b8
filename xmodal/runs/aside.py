"""Unused names for files that are set aside and kept."""

import os
from itertools import count
from pathlib import Path


def unused(path: Path) -> Path:
    """Return a path that does not exist: `path`, or `path` with a number appended."""
    numbered = (path.with_name(f"{path.name}{number or ''}") for number in count())
    return next(one for one in numbered if not os.path.lexists(one))
