"""Public names of a package that are imported when they are first used.

The package writes its names once, as imports under `if TYPE_CHECKING:`, where type checkers and
editors read them; `__getattr__ = lazy_names(__name__)` does the same imports one at a time.
"""

import ast
import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def lazy_names(package: str) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package."""
    tree = ast.parse(inspect.getsource(sys.modules[package]))
    homes = {
        alias.asname or alias.name: (str(node.module), alias.name)
        for block in tree.body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, original = homes[name]
        return getattr(import_module(module), original)

    return get
