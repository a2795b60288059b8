"""Modules that run in two steps: their configuration first, the rest when it is needed.

A component is one file: its configuration class and the class that it builds. `--help` and a
wrong key need the configurations of all components, and must not wait for torch. So `declare` runs,
of each module of a package that configures components, only the statements that its configuration
classes need, and of an import only the names; the first access to any other name runs the rest, as
an import would have.
"""

import ast
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from threading import RLock
from types import CodeType, ModuleType
from typing import Any

_LOCK = RLock()
_CONFIGURATION = re.compile(r"^class \w+Config\(", re.MULTILINE)


class DeclaredModule(ModuleType):
    """A module of which only the configuration classes have run."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":  # which `import *` asks for first
            raise AttributeError(name)
        with _LOCK:
            rest = self.__dict__.pop("__rest__", None)
            if rest is not None:
                self.__class__ = ModuleType  # type: ignore[assignment]
                try:
                    exec(rest, self.__dict__)
                except BaseException:
                    sys.modules.pop(self.__name__, None)
                    raise
        return ModuleType.__getattribute__(self, name)


def declare(package: str) -> None:
    """Register the components of a package's modules without importing what builds them."""
    spec = find_spec(package)
    assert spec is not None
    for folder in spec.submodule_search_locations or ():
        # A component may be a package too: its configuration is in its `__init__.py` then.
        for file in sorted([*Path(folder).glob("*.py"), *Path(folder).glob("*/__init__.py")]):
            name = file.stem if file.stem != "__init__" else file.parent.name
            source = file.read_text()
            if _CONFIGURATION.search(source) and name not in {"config", Path(folder).name}:
                _declare(f"{package}.{name}", file, source)


def _declare(name: str, file: Path, source: str) -> None:
    if name in sys.modules:
        return
    head, rest = _split(ast.parse(source), str(file))
    spec = find_spec(name)
    assert spec is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        exec(head, module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    module.__dict__["__rest__"] = rest
    module.__class__ = DeclaredModule
    package, _, stem = name.rpartition(".")
    setattr(sys.modules[package], stem, module)


def _split(tree: ast.Module, file: str) -> tuple[CodeType, CodeType]:
    """Return the code of a module's configuration classes, and that of the rest."""
    body = [part for node in tree.body for part in _by_name(node)]
    defined = {name: node for node in body for name in _defined(node)}
    wanted: set[ast.stmt] = set()
    open_nodes: list[ast.stmt] = [
        n for n in body if isinstance(n, ast.ClassDef) and n.name.endswith("Config")
    ]
    while open_nodes:
        node = open_nodes.pop()
        if node not in wanted:
            wanted.add(node)
            names = [n for n in ast.walk(node) if isinstance(n, ast.Name)]
            # A field may have the name of a function: it is stored, and uses none.
            used = {n.id for n in names if isinstance(n.ctx, ast.Load)}
            open_nodes += [defined[name] for name in used if name in defined]
    parts = ([n for n in body if (n in wanted) is first] for first in (True, False))
    head, rest = (compile(ast.Module(part, []), file, "exec") for part in parts)
    return head, rest


def _by_name(node: ast.stmt) -> list[ast.stmt]:
    """Return a statement; `from … import` of several names as one of each."""
    if not isinstance(node, ast.ImportFrom):
        return [node]
    parts = [ast.ImportFrom(node.module, [name], node.level) for name in node.names]
    return [ast.copy_location(part, node) for part in parts]


def _defined(node: ast.stmt) -> Iterator[str]:
    """Yield the names that a statement of a module defines."""
    match node:
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
            yield name
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in names)
        case ast.Assign(targets=targets):
            yield from (one.id for one in targets if isinstance(one, ast.Name))
        case ast.AnnAssign(target=ast.Name(id=name)):
            yield name
