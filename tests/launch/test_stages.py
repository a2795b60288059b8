"""Runs of many stages, each of which has an engine of its own."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands import train
from tests.run_folders import START, note_memory, noted_memory

STAGES = 10


def stages_of(recipe: Path, number: int, folder: Path, **method: Any) -> Path:
    """Return a recipe of so many stages of two steps."""
    values = yaml.safe_load(recipe.read_text())
    (stage,) = values["stages"]
    values["stages"] = [stage | {"name": f"s{i}", "length": "2 steps"} for i in range(number)]
    for part, changed in method.items():
        values["method"][part] |= changed
    path = folder / "stages.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize(
    ("zero", "ranks"),
    [
        (0, 1),
        (3, 1),
        *(pytest.param(zero, 2, marks=pytest.mark.slow) for zero in range(4)),
    ],
)
def test_a_stage_leaves_no_memory_behind(
    zero: int, ranks: int, recipe: Path, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    done = train(
        stages_of(recipe, STAGES, tmp_path),
        f"run={tmp_path}/run",
        f"training.zero={zero}",
        "data.val=null",
        ranks=ranks,
        before={START: partial(note_memory, notes)},
    )
    assert done.code == 0, done.err
    for started in noted_memory(notes):
        assert len(started) == STAGES
        assert [one["engines"] for one in started] == [0] * STAGES
        assert not any("checkpoint" in name for one in started for name in one["threads"])
        # The first stage leaves what all of a process share: groups of ranks and their threads.
        assert len({one["bytes"] for one in started[1:]}) == 1
        assert started[-1]["system threads"] <= started[2]["system threads"], started


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 3])
def test_resident_memory_stays_as_stages_pass(
    zero: int, recipe: Path, tmp_path: Path, figure: Any
) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    large = {"options": {"patch_size": 8, "embed_dim": 512, "depth": 8, "num_heads": 8}}
    done = train(
        stages_of(recipe, 8, tmp_path, image=large),
        f"run={tmp_path}/run",
        f"training.zero={zero}",
        "data.val=null",
        "data.batch_size=8",
        before={START: partial(note_memory, notes)},
        seconds=600,
    )
    assert done.code == 0, done.err
    (started,) = noted_memory(notes)
    resident = [one["resident"] / 1024 for one in started]
    figure(f"ZeRO {zero}: " + " ".join(f"{one:,.0f}" for one in resident) + " MB by stage")
    # What the allocator keeps for the next engine makes it grow in the first stages.
    assert resident[-1] < 1.6 * resident[1]
