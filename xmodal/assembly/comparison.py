"""Comparison of runs: their results, logs and recipes, and the shards of their queries."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xmodal.activity import activity
from xmodal.assembly.recipe import Recipe, load_recipe
from xmodal.components.differences import differences
from xmodal.data.manifest import read_manifest
from xmodal.data.reader import SampleReader
from xmodal.errors import UserError
from xmodal.evaluation.report.comparison import Compared, notes, tables
from xmodal.evaluation.report.comparison_page import print_comparison, write_page
from xmodal.evaluation.report.disagreements import Disagreements, disagreements, with_pictures
from xmodal.evaluation.report.query_file import read_queries
from xmodal.evaluation.report.results import FILE, read_results
from xmodal.runs.recipe_file import RECIPE
from xmodal.runs.run import Run
from xmodal.small_files import read_small


@dataclass(frozen=True)
class Source:
    """A folder of results and its run, if it is of one."""

    folder: Path
    run: Run | None
    recipe: Recipe | None


def compare(folders: Sequence[Path], to: Path) -> None:
    """Write the page that compares results into a new folder, and print its tables.

    Raises `UserError` for a folder without results.
    """
    sources = [_source(folder) for folder in folders]
    names = _names(folders)
    with activity("reading results"):
        runs = [_compared(one, name, sources[0]) for one, name in zip(sources, names, strict=True)]
    with activity("comparing queries"):
        found, lines = tables(runs), notes(runs)
        shown, missing = _with_pictures(disagreements(runs), runs[0], sources[0])
    page = to / "report" / "index.html"
    lines += missing
    write_page(page, " and ".join(names), runs, found, lines, shown)
    print_comparison(runs, found, lines, page)


def _source(folder: Path) -> Source:
    if not (folder / FILE).is_file():
        raise UserError(
            f"{folder} has no {FILE}; evaluate the run first (launch/evaluate.py RUN), or name a "
            "folder of results"
        )
    path = folder.parent.parent if folder.parent.name == "evaluations" else folder
    if not (path / RECIPE).is_file():
        return Source(folder, None, None)
    return Source(folder, Run(path), load_recipe(path))


def _compared(source: Source, name: str, first: Source) -> Compared:
    metrics, measured = read_results(source.folder)
    if not metrics:
        raise UserError(f"{source.folder / FILE} has no metrics; evaluate the run again")
    text = read_small(source.folder / FILE).decode("utf-8", "surrogateescape")
    return Compared(
        name,
        metrics,
        measured,
        read_queries(source.folder, text),
        source.run.history() if source.run else (),
        _changes(first.recipe, source.recipe),
    )


def _changes(first: Recipe | None, other: Recipe | None) -> list[str]:
    if first is None or other is None:
        return []
    return [line for line in differences(first, other) if not line.startswith("run:")]


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the shortest ends of paths that tell folders apart."""
    parts = [folder.absolute().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-length:]) for one in parts]
        if len(set(names)) == len(set(parts)):
            return names
    return [str(folder) for folder in folders]


def _with_pictures(
    found: Sequence[Disagreements], first: Compared, source: Source
) -> tuple[list[Disagreements], list[str]]:
    """Return disagreements with pictures; without, and a line why, where the shards are gone."""
    if not found:
        return [], []
    assert first.measured is not None
    data = first.measured["data"]
    access = source.recipe.data.access if source.recipe else ()
    try:
        manifest = read_manifest(str(data["url"]), access)
        if manifest.fingerprint != data["fingerprint"]:
            raise UserError(f"{data['url']} has other samples now than were measured")
        return with_pictures(found, SampleReader(manifest)), []
    except UserError as error:
        return list(found), [f"queries are shown without pictures: {error}"]
