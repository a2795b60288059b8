"""How often Slurm has started a job again, and whether anything came of it."""

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from xmodal.errors import UserError
from xmodal.runs.run import Run, read_state


def this_start(variables: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the job that this process belongs to, and how often it was started again."""
    return {
        "job": variables.get("SLURM_JOB_ID"),
        "restart": int(variables.get("SLURM_RESTART_COUNT", 0)),
    }


def check_restarts(run: Run, most: int, variables: Mapping[str, str] = os.environ) -> None:
    """Raise `UserError` where the job was started again more often than `most` times since the
    run's newest checkpoint: what ends it will end it the next time too.
    """
    start, newest = this_start(variables), run.latest()
    since = 0
    # What a checkpoint that cannot be read means is said where the run resumes from it.
    with suppress(UserError, ValueError):
        saved = read_state(newest).get("start", {}) if newest else {}
        if saved.get("job") == start["job"]:
            since = saved.get("restart", 0)
    if start["restart"] - since > most:
        raise UserError(
            f"job {start['job']} was started again {most} times without a checkpoint of {run.path} "
            f"that is newer than {newest.name if newest else 'none'}: mend what its logs name, and "
            "submit it once more; training.restarts allows more"
        )
