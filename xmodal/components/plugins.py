"""Plugins: modules from outside the package that register components.

A recipe names them (`plugins: [my_losses]`), or an installed package announces them by entry points
of the group `xmodal.plugins`. The former are imported before the recipe is read, the latter once a
recipe names them or a kind that nobody has registered.

A run folder alone imports no code: what its recipe names has to be imported already, or to be
announced by an installed package.
"""

import re
import sys
import traceback
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points, packages_distributions, version
from multiprocessing import parent_process
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from xmodal.errors import UserError, own_rank

GROUP = "xmodal.plugins"
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_imported: dict[str, ModuleType] = {}  # by the name that they were asked for


class PluginSource(NamedTuple):
    """Code of a plugin: a digest of its source, and the version of its package if it has one."""

    digest: str
    version: str | None = None


class MissingPluginError(UserError):
    """A plugin of a recipe that this process must not or cannot import."""


def import_plugins(names: Sequence[str]) -> None:
    """Import plugins that the user named: entry points, installed modules, or modules of the
    working directory.

    Raises `UserError` for one that is not there, or lacks a module that it needs.
    """
    for name in names:
        if name not in _imported:
            _imported[name] = _import(name)
            _warn_if_idle(name, _imported[name])


def _warn_if_idle(name: str, module: ModuleType) -> None:
    """Print a warning, once a job, where a plugin registers nothing: neither its package, nor what
    it imports from other packages.
    """
    from xmodal.components.component import registered

    package = module.__name__.partition(".")[0]
    imported = [one for one in vars(module).values() if isinstance(one, type)]
    registers = any(
        one.__module__.partition(".")[0] == package
        or (one in imported and not one.__module__.startswith("xmodal."))
        for one in registered()
    )
    if not registers and own_rank() == 0 and parent_process() is None:
        print(
            f"warning: plugin {name} registers no component (docs/plugins.md)",
            file=sys.stderr,
            flush=True,
        )


def require_plugins(names: Sequence[str]) -> None:
    """Import those of the plugins that installed packages announce.

    Raises `MissingPluginError` for any other that this process has not imported yet.
    """
    for name in names:
        if name in _imported or name in sys.modules:
            continue
        if name not in _announced():
            raise MissingPluginError(
                f"needs the plugin {name}, and a run folder alone imports no code; if you trust "
                f"the plugin, name it yourself: --plugin {name}, xmodal.load(…, plugins=[{name!r}])"
                f", or plugins=[{name}] of a recipe"
            )
        import_plugins([name])


def import_announced() -> bool:
    """Import all plugins that installed packages announce; return whether any is new."""
    new = [name for name in _announced() if name not in _imported]
    import_plugins(new)
    return bool(new)


def imported_plugins() -> dict[str, PluginSource]:
    """Return the code of each plugin imported so far, by its name."""
    return {
        name: PluginSource(_digest(module), _version(module))
        for name, module in sorted(_imported.items())
    }


def plugin_folders() -> list[str]:
    """Return the folders that a process has to search to find what this one has imported."""
    tops = {module.__name__.partition(".")[0] for module in _imported.values()}
    files = [Path(file) for top in sorted(tops) if (file := sys.modules[top].__file__)]
    return [str((file.parent if file.stem == "__init__" else file).parent) for file in files]


def _import(name: str) -> ModuleType:
    entry = _announced().get(name)
    module = entry.module if entry else name
    if not _NAME.fullmatch(module):
        raise UserError(
            f"plugins: {name!r} is not the name of a module, such as my_losses{_of_file(name)}"
        )
    here = str(Path.cwd())
    if here not in sys.path:  # scripts have their own folder there in its place
        sys.path.append(here)
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise MissingPluginError(
                f"plugins: there is no module {module}; install it, start the command in the "
                "folder that holds it, or put that folder into PYTHONPATH or sys.path"
            ) from None
        raise UserError(
            f"plugins: {name} needs the module {error.name}, which is not installed"
        ) from error
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"plugins: {name} cannot be imported: {_fault(error)}") from error


def _of_file(name: str) -> str:
    """Return what to write in the place of a file's path."""
    path = Path(name)
    if path.suffix != ".py" or not _NAME.fullmatch(path.stem):
        return ""
    return f"; write {path.stem}, and start the command in {path.parent} or put it into PYTHONPATH"


def _fault(error: Exception) -> str:
    """Return an error in words, with the source line that raised it."""
    kind, text = type(error).__name__, str(error).split("\n")[0]
    if isinstance(error, SyntaxError):
        return f"{kind}: {error.msg} ({error.filename}, line {error.lineno})"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{kind}: {text} ({last.filename}, line {last.lineno})"


@cache
def _announced() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _digest(module: ModuleType) -> str:
    """Return a digest of a module's source, of a package's of all its modules."""
    if module.__file__ is None:
        return "unknown"
    file = Path(module.__file__)
    files = sorted(file.parent.rglob("*.py")) if file.stem == "__init__" else [file]
    digest = sha256()
    for one in files:
        digest.update(one.relative_to(file.parent).as_posix().encode())
        digest.update(one.read_bytes())
    return f"sha256-{digest.hexdigest()[:16]}"


def _version(module: ModuleType) -> str | None:
    """Return the version of the installed package that a module belongs to, if there is one."""
    packages = packages_distributions().get(module.__name__.partition(".")[0])
    return version(packages[0]) if packages else None
