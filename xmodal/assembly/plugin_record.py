"""Record of the plugins that a run is trained with, compared when it resumes."""

import json
from pathlib import Path

from xmodal.atomic_files import write_atomically
from xmodal.components.plugins import imported_plugins
from xmodal.small_files import read_small

NAME = "plugins.json"


def write_plugins(folder: Path) -> None:
    """Write the plugins of this process and the digests of their source into a run folder."""
    plugins = imported_plugins()
    if plugins or (folder / NAME).is_file():
        write_atomically(folder / NAME, json.dumps(plugins, indent=1) + "\n")


def changed_plugins(folder: Path) -> list[str]:
    """Return warnings about plugins whose source has changed since the run was trained."""
    before, now = _read(folder / NAME), imported_plugins()
    return [
        f"warning: the source of plugin {name} changed since the last start of the run"
        for name, digest in now.items()
        if before.get(name, digest) != digest
    ]


def _read(path: Path) -> dict[str, str]:
    try:
        found = json.loads(read_small(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
