"""Limit of Slurm restarts without progress."""

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from xmodal.errors import UserError
from xmodal.runs.run import Run, read_state


def this_start(variables: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the Slurm job of this process, and its number of restarts."""
    return {
        "job": variables.get("SLURM_JOB_ID"),
        "restart": int(variables.get("SLURM_RESTART_COUNT", 0)),
    }


def check_restarts(run: Run, most: int, variables: Mapping[str, str] = os.environ) -> None:
    """Raise `UserError` after more than `most` restarts since the newest checkpoint.

    The same failure would end it the next time too.
    """
    start, newest = this_start(variables), run.latest()
    since = 0
    # An unreadable checkpoint is reported when the run resumes from it.
    with suppress(UserError, ValueError):
        saved = read_state(newest).get("start", {}) if newest else {}
        if saved.get("job") == start["job"]:
            since = saved.get("restart", 0)
    if start["restart"] - since > most:
        raise UserError(
            f"job {start['job']} was started again {most} times without a checkpoint of {run.path} "
            f"that is newer than {newest.name if newest else 'none'}: fix the "
            "cause that its logs name, and submit it again; training.restarts allows more"
        )
