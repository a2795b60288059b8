"""The tokenizer of a run: the one that its weights were trained with, or none.

Every checkpoint keeps a copy, because token ids mean nothing without the tokenizer that gave them.
"""

from collections.abc import Sequence
from pathlib import Path

from xmodal.assembly.build import make_tokenizer
from xmodal.atomic_files import write_atomically
from xmodal.data.manifest import Manifest
from xmodal.errors import UserError
from xmodal.methods.config import MethodConfig
from xmodal.runs.aside import unused
from xmodal.runs.run import Run
from xmodal.small_files import read_small


def settle_tokenizer(run: Run, config: MethodConfig, shards: Sequence[Manifest]) -> list[str]:
    """Have tokenizer.json be the one of the newest checkpoint; without one, make it anew.

    Return warnings about a file that was missing or another one, which is kept under another name.
    Raises `UserError` where the checkpoint has no copy and the file is missing.
    """
    checkpoint, warnings = run.latest(), list[str]()
    if checkpoint is None:
        # Of a start that saved no checkpoint: the data or the file may have changed since then.
        run.tokenizer.unlink(missing_ok=True)
        make_tokenizer(config, shards, run.tokenizer)
    else:
        warnings = _restored(run.tokenizer, checkpoint)
    run.vocabulary = read_small(run.tokenizer)
    return warnings


def _restored(path: Path, checkpoint: Path) -> list[str]:
    copy, there = checkpoint / path.name, path.is_file()
    if not (there or copy.is_file()):  # a checkpoint of before
        raise UserError(
            f"{path} is missing, and {checkpoint.name} has no copy of it: its weights are of no "
            "use without their vocabulary; restore the file, or train in another run=DIR"
        )
    if not copy.is_file() or (there and read_small(path) == read_small(copy)):
        return []
    fault = "was missing"
    if there:
        other = unused(path.with_name(f"{path.name}.other"))
        path.rename(other)
        fault = f"was not the one of {checkpoint.name} and is kept as {other.name}"
    write_atomically(path, read_small(copy).decode())
    return [f"warning: {path} {fault}; restored from {checkpoint.name}"]


def tokenizer_of(run: Run, checkpoint: Path) -> Path:
    """Return the tokenizer that a checkpoint's weights were trained with."""
    copy = checkpoint / run.tokenizer.name
    return copy if copy.is_file() else run.tokenizer
