"""Record of the plugins that a run is trained with, compared when it resumes."""

import json
from pathlib import Path
from typing import Any

from xmodal.atomic_files import write_atomically
from xmodal.components.plugins import PluginSource, imported_plugins
from xmodal.small_files import read_small

NAME = "plugins.json"


def write_plugins(folder: Path) -> None:
    """Write the digest and the version of each plugin of this process into a run folder."""
    plugins = {name: code._asdict() for name, code in imported_plugins().items()}
    if plugins or (folder / NAME).is_file():
        write_atomically(folder / NAME, json.dumps(plugins, indent=1) + "\n")


def changed_plugins(folder: Path) -> list[str]:
    """Return warnings about plugins whose version or source changed since the run was trained."""
    before = _read(folder / NAME)
    lines = (
        _change(name, before[name], now)
        for name, now in imported_plugins().items()
        if name in before
    )
    return [line for line in lines if line]


def _change(name: str, before: PluginSource, now: PluginSource) -> str | None:
    """Return a warning about a plugin that changed: one line, with its versions if they differ."""
    if None not in (before.version, now.version) and before.version != now.version:
        return (
            f"warning: the run was trained with version {before.version} of plugin {name}, and "
            f"{now.version} is installed"
        )
    if before.digest != now.digest:
        return f"warning: the source of plugin {name} changed since the last start of the run"
    return None


def _read(path: Path) -> dict[str, PluginSource]:
    """Read a record; plugins without a digest in it are skipped, as is a damaged file."""
    try:
        found = json.loads(read_small(path))
    except (OSError, ValueError, RecursionError):
        return {}
    entries = found.items() if isinstance(found, dict) else ()
    return {name: code for name, value in entries if (code := _source(value))}


def _source(value: Any) -> PluginSource | None:
    match value:
        case str():  # a record from before versions were kept
            return PluginSource(value)
        case {"digest": str(digest), "version": str() | None as version}:
            return PluginSource(digest, version)
    return None
