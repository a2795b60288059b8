"""Results of a sweep: a table, trials.csv, best.yaml, a page with plots, TensorBoard's HParams."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup
from rich import box
from rich.table import Table
from rich.text import Text

from xmodal.atomic_files import write_atomically
from xmodal.errors import UserError
from xmodal.evaluation.report.page import render
from xmodal.terminal import console
from xmodal.tuning.journal import Journal, Trial
from xmodal.tuning.plots import by_key, over_time, parallel
from xmodal.tuning.trial import Plan


def report(plan: Plan, journal: Journal) -> None:
    """Write a sweep's results into its folder and print their table.

    Raises `UserError` where no trial was measured.
    """
    trials = ranked(list(journal.trials.values()), plan.space.mode)
    columns, rows = _table(plan, trials)
    _write_csv(plan.folder / "trials.csv", columns, rows)
    best = trials[0] if trials[0].best(plan.space.mode) else None
    recipe = _best_recipe(plan, best) if best else ""
    if best:
        write_atomically(plan.folder / "best.yaml", recipe)
    _write_page(plan, trials, columns, rows, recipe)
    for trial in trials:
        _write_hparams(plan, trial)
    if best is None:
        lines = {trial.line for trial in trials if trial.line}
        raise UserError(f"no trial of {plan.folder} was measured: {'; '.join(sorted(lines))}")
    _print(plan, columns, rows)


def ranked(trials: Sequence[Trial], mode: str) -> list[Trial]:
    """Return trials by their best evaluation, the best first, those that have none last."""
    sign = 1 if mode == "max" else -1

    def key(trial: Trial) -> float:
        best = trial.best(mode)
        return sign * best.value if best else float("-inf")

    return sorted(trials, key=key, reverse=True)


def _table(plan: Plan, trials: Sequence[Trial]) -> tuple[list[str], list[list[str]]]:
    columns = ["trial", plan.metric, "step", *plan.space.space, "end", "note"]
    rows = []
    for trial in trials:
        best = trial.best(plan.space.mode)
        measured = [f"{best.value:.6g}", str(best.step)] if best else ["", ""]
        values = [_written(trial.values.get(key, "")) for key in plan.space.space]
        notes = [trial.line] if trial.line else []
        notes += ["the recipe as it is"] if trial.name == "000" else []
        notes += [f"weights of {donor} at step {step}" for step, donor in trial.weights]
        rows.append([trial.name, *measured, *values, trial.end or "", "; ".join(notes)])
    return columns, rows


def _written(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else _plain(value)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    write_atomically(path, text.getvalue())


def _best_recipe(plan: Plan, best: Trial) -> str:
    """Return the best trial's recipe, without its run folder."""
    values = plan.recipe_of(best.name, best.values).model_dump(mode="json")
    del values["run"]
    found = best.best(plan.space.mode)
    assert found is not None
    head = (
        f"# Trial {best.name} of {plan.folder}: {plan.metric} {found.value:.6g}, step {found.step}."
    )
    if best.weights:
        head += (
            "\n# It continued from other trials' weights; these are the values that it ended with."
        )
    return f"{head}\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}"


def _write_page(
    plan: Plan,
    trials: Sequence[Trial],
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    recipe: str,
) -> None:
    best = trials[0].name if recipe else None
    wide = {
        f"{plan.metric} by samples": over_time(trials, best),
        "Trials by their values": parallel(trials, plan.space, plan.metric, best),
    }
    drawings = {key: by_key(trials, key, plan.space, best) for key in plan.space.space}
    page = render(
        Path(__file__).with_name("report.html"),
        f"Sweep {plan.folder.name}",
        metric=plan.metric,
        columns=columns,
        rows=rows,
        best=best,
        wide={name: Markup(drawing) for name, drawing in wide.items() if drawing},
        drawings={name: Markup(drawing) for name, drawing in drawings.items() if drawing},
        space=(plan.folder / "space.yaml").read_text(),
        recipe=recipe,
    )
    (plan.folder / "report").mkdir(exist_ok=True)
    write_atomically(plan.folder / "report" / "index.html", page)


def _write_hparams(plan: Plan, trial: Trial) -> None:
    """Write a trial's values and its best evaluation for TensorBoard's HParams."""
    best, board = trial.best(plan.space.mode), plan.run(trial.name).tensorboard
    if best is None or any(board.glob("*.hparams")):
        return
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    simple = {
        key: value if isinstance(value, int | float | str | bool) else _plain(value)
        for key, value in trial.values.items()
    }
    with SummaryWriter(str(board), filename_suffix=".hparams") as writer:
        for summary in hparams(simple, {f"best/{plan.metric}": best.value}):
            writer.file_writer.add_summary(summary)
        writer.add_scalar(f"best/{plan.metric}", best.value, best.step)


def _print(plan: Plan, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    shown = console(width=1000, soft_wrap=True)  # rather long lines than columns cut short
    table = Table(*_short(columns), box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*map(Text, row))  # [0.5, 1.0] is no markup
    shown.print(table)
    for name in ("best.yaml", "report/index.html"):
        shown.print(
            f"{name.split('/')[0].removesuffix('.yaml')}: {plan.folder / name}",
            markup=False,
            highlight=False,
        )


def _short(columns: Sequence[str]) -> list[str]:
    """Return names by their last parts, where that leaves them apart."""
    last = [name.rpartition("." if "." in name else "/")[2] for name in columns]
    return [
        part if last.count(part) == 1 else name for name, part in zip(columns, last, strict=True)
    ]
