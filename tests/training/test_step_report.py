"""Reports of steps: what is in them, and when they are read."""

from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from xmodal.components.config import Span
from xmodal.data.batch import Batch
from xmodal.errors import UserError
from xmodal.training.config import StageConfig
from xmodal.training.step_report import StepReport
from xmodal.training.timeline import Timeline
from xmodal.training.trainer import Trainer

STEPS, SAVED, EVALUATED = 12, 5, 8


def report(step: int, *, loss: float = 2.0, norm: float = 0.5, asked: int = 0) -> StepReport:
    """The report of a step of two ranks."""
    shared, own = torch.tensor([2 * loss, 2 * loss, 0, asked, 1]), {"grad_norm": torch.tensor(norm)}
    return StepReport(step, Batch(), ("one",), shared, own, {"lr": 0.1})


def test_values_are_means_over_ranks_and_those_of_this_one() -> None:
    one = report(3, loss=1.5, asked=1)
    one.read(2)
    assert one.values == {"loss": 1.5, "loss/one": 1.5, "grad_norm": 0.5, "lr": 0.1}
    assert one.losses == {"one": 1.5}
    assert (one.num_reports, one.num_asked, one.num_written) == (0, 1, 1)


def trainer(device: str) -> Any:
    """A trainer as far as it reads reports."""
    one: Any = object.__new__(Trainer)
    stage = StageConfig.model_validate({"length": f"{STEPS} steps"})
    one.timeline = Timeline(
        [stage],
        batch_size=4,
        epoch_samples=8,
        evaluate_every=Span(f"{EVALUATED} steps"),
        checkpoint_every=Span(f"{SAVED} steps"),
    )
    one.environment = SimpleNamespace(device=SimpleNamespace(type=device), ranks=2)
    one.progress, one.data = SimpleNamespace(step=0), SimpleNamespace(batch_size=4)
    one.checkpointing = SimpleNamespace(finish=lambda: None)
    one.unread, one.stopping = deque(), False
    return one


def read(one: Any, **values: dict[int, Any]) -> list[list[int]]:
    """Take all steps; return which reports are read after each."""
    found, method = [], SimpleNamespace(failure_reason=lambda _: None)
    for step in range(1, STEPS + 1):
        one.unread.append(
            report(step, **{name: by_step.get(step, 0.0) for name, by_step in values.items()})
        )
        reports = one._read_reports(method, one.timeline.stages[0])
        found.append([read.step for read in reports])
        one.progress.step = step
        if one.stopping:
            break
    return found


def test_a_device_computes_a_step_while_the_one_before_is_read() -> None:
    found = read(trainer("cuda"))
    # Saved after 5 and 10, evaluated after 8, ended after 12: nothing is left unread there.
    assert found == [[], [1], [2], [3], [4, 5], [], [6], [7, 8], [], [9, 10], [], [11, 12]]


def test_the_host_has_its_values_at_once() -> None:
    assert read(trainer("cpu")) == [[step] for step in range(1, STEPS + 1)]


def test_all_is_read_before_a_stop() -> None:
    assert read(trainer("cuda"), asked={2: 1}) == [[], [1], [2, 3]]


def test_a_loss_that_is_not_finite_ends_the_run_by_its_own_step() -> None:
    with pytest.raises(UserError, match=r"the one loss is nan at step 3 \(.*positions 8 to 11"):
        read(trainer("cuda"), loss={3: torch.nan})


def test_gradients_that_are_not_finite_end_the_run_by_their_own_step() -> None:
    with pytest.raises(UserError, match=r"the norm of the gradients is inf at step 3 \(stage main"):
        read(trainer("cuda"), norm={3: torch.inf})
