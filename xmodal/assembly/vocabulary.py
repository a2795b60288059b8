"""The tokenizer of a run: the one that its weights were trained with, or none.

Every checkpoint keeps a copy, because token ids mean nothing without the tokenizer that gave them.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from xmodal.activity import activity
from xmodal.atomic_files import write_atomically
from xmodal.data.decode import BadSample
from xmodal.data.samples import RawSample
from xmodal.data.tokenizers.bytes import BytesConfig
from xmodal.data.tokens import CaptionTokenizer, read_tokenizer
from xmodal.data.training_set import DataSet
from xmodal.errors import UserError
from xmodal.methods.config import MethodConfig
from xmodal.runs.aside import unused
from xmodal.runs.run import Run
from xmodal.small_files import read_small

# Samples whose captions a vocabulary is learned from: all, or this many where there are more.
TOKENIZER_SAMPLES = 200_000
ADJACENT = 100  # samples next to each other that are read together


def settle_tokenizer(run: Run, config: MethodConfig, data_sets: Sequence[DataSet]) -> list[str]:
    """Have tokenizer.json be the one of the newest checkpoint; without one, make it anew.

    Return warnings about a file that was missing or another one, which is kept under another name.
    Raises `UserError` where the checkpoint has no copy and the file is missing.
    """
    checkpoint, warnings = run.latest(), list[str]()
    if checkpoint is None:
        # Of a start that saved no checkpoint: the data or the file may have changed since then.
        run.tokenizer.unlink(missing_ok=True)
        make_tokenizer(config, data_sets, run.tokenizer)
    else:
        warnings = _restored(run.tokenizer, checkpoint)
    run.vocabulary = read_small(run.tokenizer)
    return warnings


def make_tokenizer(config: MethodConfig, data_sets: Sequence[DataSet], path: Path) -> None:
    """Write the tokenizer of a method's text encoder to `path`, unless it is there.

    Raises `UserError` where a text encoder is taken from a run that has lost its own.
    """
    if path.is_file():
        return
    text, run = config.text, getattr(config, "text_from", None)
    if run:
        load_tokenizer(config, Path(run) / path.name).save(path)
    elif text is None:
        BytesConfig().build((), 1).save(path)  # so that every run has one
    else:
        text.tokenizer.build(_captions(data_sets), text.context).save(path)


def load_tokenizer(config: MethodConfig, path: Path) -> CaptionTokenizer:
    """Read the tokenizer that `make_tokenizer` wrote."""
    if not path.is_file():
        raise UserError(f"{path} is missing: the run's vocabulary is lost; train the run again")
    if config.text is None:
        return read_tokenizer(path, 1)
    return read_tokenizer(path, config.text.context, config.text.tokenizer.cleaning)


def _captions(data_sets: Sequence[DataSet]) -> Iterator[str]:
    """Yield the texts that are drawn from samples of all over the data sets, in runs that are read
    at once.
    """
    total = sum(len(one.reader) for one in data_sets)
    stride = max(1, total // TOKENIZER_SAMPLES)
    with activity("learning the vocabulary: sample", total) as read:
        for one in data_sets:
            for first in range(0, len(one.reader), stride * ADJACENT):
                numbers = range(first, min(first + ADJACENT, len(one.reader)))
                for sample in one.reader.load(numbers, ("json", "txt")):
                    yield from _texts(sample, one)
                read.advance(min(stride * ADJACENT, len(one.reader) - first))


def _texts(sample: RawSample, data_set: DataSet) -> Iterator[str]:
    try:
        found = sample.drawable(data_set.texts, data_set.templates)
    except BadSample:
        return  # counted and named when training meets it
    for texts in found.values():
        yield from texts


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
