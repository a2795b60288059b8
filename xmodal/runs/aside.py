"""Names for what is put aside and kept."""

import os
from itertools import count
from pathlib import Path


def unused(path: Path) -> Path:
    """Return a path where nothing lies: `path`, or with a number after it."""
    numbered = (path.with_name(f"{path.name}{number or ''}") for number in count())
    return next(one for one in numbered if not os.path.lexists(one))
