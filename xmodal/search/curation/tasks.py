"""The tasks of curation by name: open the sets, run the task, write what it found."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from xmodal.activity import activity
from xmodal.errors import UserError
from xmodal.search.build_index import build_index
from xmodal.search.curation.alike import Rule
from xmodal.search.curation.clip_score import clip_score
from xmodal.search.curation.clusters import clusters
from xmodal.search.curation.confused import confused
from xmodal.search.curation.duplicates import duplicates
from xmodal.search.curation.keep_list import keep_list
from xmodal.search.curation.leakage import leakage
from xmodal.search.curation.mine import mine
from xmodal.search.curation.outcome import Outcome, write_outcome
from xmodal.search.curation.outliers import outliers
from xmodal.search.embeddings import Embeddings
from xmodal.search.index_folder import INFO
from xmodal.search.own_score import is_learned
from xmodal.search.searcher import Searcher
from xmodal.terminal import console

Options = Mapping[str, Any]
WORK = "work"  # folder within the new one, for what is removed at the end


def curate(task: str, options: Options, target: Path) -> None:
    """Run a task and write its files as the folder `target`, whole or not there."""
    folder = target.with_name(target.name + ".part")
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise UserError(f"{folder} is in the way, of a run that was ended; remove it") from None
    try:
        (folder / WORK).mkdir()
        searcher = open_set(options["embeddings"], folder / WORK / "set")
        with activity(task):
            outcome = TASKS[task](searcher, options, folder)
            check_kept(outcome)
            about = {"task": task, **options}
            write_outcome(outcome, searcher, folder, f"Curation: {task}", about)
        shutil.rmtree(folder / WORK)
        folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print_outcome(outcome, target)


def open_set(path: str, work: Path) -> Searcher:
    """Open an index; embeddings are consolidated into one first, as the folder `work`."""
    if not (Path(path) / INFO).is_file():
        build_index(Embeddings(path), work, "exact", 0, say=lambda _: None)
        path = str(work)
    searcher = Searcher.open(path)
    kind = searcher.info.model.method
    if is_learned(kind):
        console().print(f"{kind} scores by a network; curation compares embeddings alone")
    if "images" not in searcher.sides or not len(searcher.sides["images"]):
        raise UserError(f"{path} has no images")
    return searcher


def check_kept(outcome: Outcome) -> None:
    """Raise `UserError` where an outcome keeps nothing: no training could use its list."""
    if outcome.kept is not None and not outcome.kept.any():
        raise UserError(f"all {len(outcome.kept):,} samples would be removed; keep more of them")


def print_outcome(outcome: Outcome, target: Path) -> None:
    """Print the numbers of an outcome, and where its files are."""
    table = Table(box=box.SIMPLE, show_header=False)
    for name, value in outcome.numbers.items():
        table.add_row(name, value)
    shown = console(soft_wrap=True)
    shown.print(table)
    files = ", ".join(sorted(path.name for path in target.iterdir()))
    shown.print(f"{target}: {files}", markup=False, highlight=False)


def _leakage(train: Searcher, options: Options, folder: Path) -> Outcome:
    test = open_set(options["against"], folder / WORK / "against")
    return leakage(train, test, _rule(options), folder / WORK)


def _rule(options: Options) -> Rule:
    return Rule(options["rule"], options["similarity"])


TASKS: dict[str, Callable[[Searcher, Options, Path], Outcome]] = {
    "duplicates": lambda one, o, folder: duplicates(one, _rule(o), folder / WORK),
    "leakage": _leakage,
    "clip-score": lambda one, o, _: clip_score(one, o["threshold"], o["best"]),
    "outliers": lambda one, o, _: outliers(one, o["neighbours"], o["deviations"], o["drop"]),
    "confused": lambda one, o, _: confused(one, o["number"]),
    "clusters": lambda one, o, _: clusters(one, o["number"]),
    "mine": lambda one, o, folder: mine(one, o["number"], o["margin"], folder),
    "keep-list": lambda one, o, folder: keep_list(one, Path(o["source"]), folder),
}
