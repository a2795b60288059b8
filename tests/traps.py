"""Files that would run a command if anything executed what they hold."""

import functools
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


class Trap:
    """What calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def touching(file: Path) -> Trap:
    """Return what makes a file when it is unpickled."""
    return Trap(os.system, f"touch '{file}'")


def spring(trap: object) -> None:
    """Unpickle a trap as an unsafe reader does: it works."""
    pickle.loads(pickle.dumps(trap))


def set_trap(file: Path, marker: Path) -> None:
    """Add a trap that makes `marker` to what a PyTorch file holds, and leave the rest as it is."""
    held = torch.load(file, map_location="cpu", weights_only=False)
    torch.save(held | {"ds_version": touching(marker)}, file)


KINDS: dict[str, Callable[[Path], object]] = {
    "system": touching,
    "eval": lambda file: Trap(eval, f"open({str(file)!r}, 'w')"),
    "exec": lambda file: Trap(exec, f"open({str(file)!r}, 'w')"),
    "open": lambda file: Trap(open, str(file), "w"),
    "partial": lambda file: Trap(functools.partial(os.system, f"touch {file}")),
    "module": lambda _: torch.nn.Linear(1, 1),
}
