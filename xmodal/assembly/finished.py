"""Finished runs, whose folders no longer change."""

from xmodal.assembly.recipe import Recipe, load_recipe
from xmodal.components.config import Mark
from xmodal.components.differences import changes
from xmodal.errors import UserError
from xmodal.evaluation.report.results import read_results
from xmodal.runs.progress import Progress
from xmodal.runs.run import Run
from xmodal.training.early_stopping import ended_early
from xmodal.training.requirements import check_requirements
from xmodal.training.timeline import Timeline


def is_finished(run: Run, recipe: Recipe, timeline: Timeline, progress: Progress) -> bool:
    """Return whether all steps are done and the conditions of the last stage hold, or the run was
    stopped early.
    """
    if progress.stopped:
        return True
    begun = load_recipe(run.path) if run.recipe.is_file() else recipe
    try:
        check_requirements(begun.stages[-1], progress.measured)
    except UserError:
        return False
    return progress.step >= timeline.total


def finished_lines(run: Run, recipe: Recipe, progress: Progress, timeline: Timeline) -> list[str]:
    """Return log lines about a finished run that is started again."""
    steps = timeline.total
    end = ended_early(progress, steps) if progress.stopped else f"Finished: step {steps} of {steps}"
    lines = [f"{end}. For another training, name another run=DIR."]
    without_effect = changes(load_recipe(run.path), recipe, apart_from=Mark.LASTING)
    changed = [line.split(":")[0] for line in without_effect]
    if changed:
        lines.append(
            f"warning: the run is finished, so the new {', '.join(changed)} has no effect; "
            "recipe.yaml stays as it was trained"
        )
    if any(key.startswith("evaluation.") for key in changed):
        lines[-1] += (
            f"; for other measurements, run: python launch/evaluate.py {run.path} --protocol NAME"
        )
    return lines


def own_results(run: Run) -> tuple[dict[str, float], list[str]]:
    """Return the metrics of a run's last evaluation in training, and lines about its files.

    Those of `results.json` where it is of the same checkpoint, else those of the run's log.
    """
    found, measured = read_results(run.path)
    rows = [row for row in run.history() if "loss" not in row]
    last = dict(rows[-1]) if rows else {}
    step = last.pop("step", None)
    last.pop("stage", None)
    if not last:
        return (found if measured else {}), []
    if found == last or (measured and measured.get("checkpoint") == f"step-{step}"):
        return found, []
    fault = "are of another evaluation" if run.results.is_file() else "are missing"
    return last, [
        f"warning: {run.results} and its report {fault}; write them again by: "
        f"python launch/evaluate.py {run.path}"
    ]
