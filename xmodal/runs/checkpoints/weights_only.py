"""Checkpoints that hold weights and no optimiser: a model to use, from which nothing resumes."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from xmodal.atomic_files import write_atomically
from xmodal.runs.checkpoints.integrity import write_contents
from xmodal.runs.progress import Progress
from xmodal.runs.run import STATE_FILE, Run


def write_weights(
    run: Run, weights: Mapping[str, Tensor], step: int, tokenizer: bytes, made: str
) -> Path:
    """Write a checkpoint of a step, the newest of a run folder without ZeRO, in one process.

    `made` tells where the weights come from; training takes the run as finished for this reason.
    Return the checkpoint's folder.
    """
    folder = run.checkpoint(step)
    partial = folder.with_name(f"{folder.name}.partial")
    with run.writing(partial):
        partial.mkdir(parents=True)
        torch.save({"module": dict(weights)}, partial / "mp_rank_00_model_states.pt")
        state = asdict(Progress(step, stopped=made)) | {"ranks": 1}
        write_atomically(partial / STATE_FILE, json.dumps(state))
        (partial / run.tokenizer.name).write_bytes(tokenizer)
        write_contents(partial, [])
        partial.rename(folder)
        write_atomically(run.checkpoints / "latest", folder.name)
    return folder
