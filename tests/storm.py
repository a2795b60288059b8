"""Training that is killed over and over, in every phase: `python -m tests.storm --kills 100`.

Each start is killed once (kill -9 of a rank, of both, of the loaders), and the rank that is left
has to end by itself. A run that has come to its end has the losses, measures and files of one that
nobody disturbed. Prints a table of the kills; raises `AssertionError` where something is wrong.
"""

import argparse
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from traceback import extract_stack
from types import MappingProxyType

import psutil

from tests.commands import Done, train

SECONDS = 90  # in which all ranks have to be gone, however busy the machine is
# In which a rank gives up on others, where they are killed.
HURRIED = ("training.watchdog=5", "training.rendezvous_timeout=3")
ZEROS = range(4)
RANKS, BOTH, LOADERS = ("rank 0", "rank 1"), "both", "loaders"


@dataclass(frozen=True)
class Phase:
    """A part of a training, by a function that it calls so often, or more."""

    place: str
    calls: range = range(1, 2)  # of which one is struck
    victims: Sequence[str] = (*RANKS, BOTH)
    within: str = ""  # the function whose calls count, where others call it too


# What a run is struck in, one after the other; each has passed a checkpoint before the second.
GROUPS: Sequence[dict[str, Phase]] = (
    {
        "steps": Phase(
            "xmodal.training.gradient_cache:GradientCache.backward",
            range(6, 9),
            (LOADERS, *RANKS, BOTH),
        ),
        "recovery": Phase("xmodal.runs.checkpoints.integrity:_fault"),
        "rendezvous": Phase("xmodal.distributed.rendezvous:Rendezvous.wait"),
        "pruning": Phase("shutil:os.unlink", range(1, 6), RANKS[:1], within="prune"),
    },
    {
        "naming": Phase("xmodal.runs.checkpoints.saving:write_atomically", range(2, 4), RANKS[:1]),
        "writing": Phase("xmodal.runs.checkpoints.writer:_write", range(1, 4)),
        "loading": Phase("xmodal.training.trainer:load_checkpoint"),
        "imports": Phase("xmodal.distributed.environment:keep_within"),
    },
    {
        "agreement": Phase("xmodal.training.trainer:Trainer.reduce_step_stats", range(6, 9)),
        "engine": Phase("xmodal.training.trainer:initialize_engine"),
        "process groups": Phase("torch.distributed:new_group", victims=RANKS),
        "renaming": Phase("xmodal.runs.run:Path.rename", range(1, 3), RANKS[:1]),
    },
    {
        "evaluation": Phase("xmodal.evaluation.embedding:_embed_batch"),
        "stage": Phase("xmodal.training.trainer:Trainer._start_stage"),
        "logging": Phase("xmodal.runs.run:Run.log", range(1, 4), RANKS[:1]),
        "results": Phase("xmodal.assembly.session:write_results", victims=RANKS[:1]),
    },
)


@dataclass
class Strike:
    """Kills, when it is called for the so-manieth time; to be called before a phase's function."""

    victim: str
    number: int
    mark: Path
    within: str = ""
    calls: int = 0

    def __call__(self, *_: object, **__: object) -> None:
        callers = {frame.name for frame in extract_stack()} if self.within else {""}
        self.calls += self.within in callers
        if self.calls != self.number:
            return
        if self.victim == LOADERS:
            for loader in psutil.Process().children():
                self.mark.touch()
                loader.kill()
        elif self.victim in (BOTH, f"rank {os.environ['RANK']}"):
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def hurry(*_: object) -> None:
    """Have a rank that is left end without the pauses for others to speak."""
    from xmodal import errors
    from xmodal.distributed import watchdog

    errors.SECONDS_TO_BLAME = watchdog.SECONDS_TO_SPEAK = 0


@dataclass
class Storm:
    """Runs of a recipe in a folder, one after the other, under ZeRO stages in turn."""

    recipe: Path
    folder: Path
    seed: int = 0
    starts: int = 0
    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    longest: dict[tuple[str, str], float] = field(default_factory=dict)
    zeros: list[int] = field(default_factory=list)  # of the runs that have ended

    def rage(self, kills: int) -> str:
        """Kill so often, bring each run to its end, and return the table."""
        draw = random.Random(self.seed)
        while (left := kills - self.kills.total()) > 0:
            turn, group = divmod(len(self.zeros), len(GROUPS))
            zero = (group + turn) % len(ZEROS)
            for number, (name, phase) in enumerate(list(GROUPS[group].items())[:left]):
                victim = phase.victims[(group + number + turn) % len(phase.victims)]
                self._strike(zero, name, phase, victim, draw.choice(phase.calls))
            self._end(zero)
        return self._table()

    def _strike(self, zero: int, name: str, phase: Phase, victim: str, number: int) -> None:
        """Start the run until it was struck: a busy machine may have it give up before that."""
        mark, what = self.folder / "struck", f"{victim} killed in {name} ({number}, ZeRO {zero})"
        while not mark.exists():
            begun = time.monotonic()
            strike = Strike(victim, number, mark, phase.within)
            done = self._train(zero, *HURRIED, before={phase.place: strike})
            seconds = time.monotonic() - begun
            assert seconds < SECONDS, f"{what}, and others wait: {done}"
            assert done.code == 75 or mark.exists(), f"not {what}: {done}"
            assert done.code in (0, 75, -signal.SIGKILL), f"{what}: {done}"
        mark.unlink()
        self.kills[name, victim] += 1
        self.longest[name, victim] = max(seconds, self.longest.get((name, victim), 0))

    def _end(self, zero: int) -> None:
        """Bring the run to its end, and compare it with one that nobody disturbed."""
        done, whole = self._train(zero), self._undisturbed(zero)
        assert done.code == 0, done
        assert facts(self._run) == facts(whole), done
        self.zeros.append(zero)

    @property
    def _run(self) -> Path:
        return self.folder / str(len(self.zeros))

    def _undisturbed(self, zero: int) -> Path:
        whole = self.folder / f"undisturbed-{zero}"
        if not whole.exists():
            done = train(*self._keys(zero), f"run={whole}", ranks=2)
            assert done.code == 0, done
        return whole

    def _train(
        self, zero: int, *keys: str, before: Mapping[str, Strike] = MappingProxyType({})
    ) -> Done:
        self.starts += 1
        hurried = {"xmodal.distributed.environment:adopt_launcher": hurry}
        return train(
            *self._keys(zero),
            f"run={self._run}",
            *keys,
            ranks=2,
            before={**hurried, **before},
            seconds=SECONDS,
            launcher=False,
        )

    def _keys(self, zero: int) -> list[object]:
        keys = ["data.workers=1", "checkpoints.every=2 steps", "stages.0.length=12 steps"]
        return [self.recipe, f"training.zero={zero}", *keys]

    def _table(self) -> str:
        rows = [
            f"{phase:<15} {victim:<8} {count:>5} {self.longest[phase, victim]:>9.1f}"
            for (phase, victim), count in sorted(self.kills.items())
        ]
        head = f"{'killed in':<15} {'who':<8} {'kills':>5} {'longest s':>9}"
        zeros = ", ".join(map(str, self.zeros))
        total = (
            f"{self.kills.total()} kills, {self.starts} starts, {len(self.zeros)} runs (ZeRO "
            f"{zeros}) that ended as if nobody had disturbed them"
        )
        return "\n".join([head, *rows, total])


def facts(run: Path) -> dict[str, object]:
    """Return what a run that was killed has to have in common with one that was not."""
    # What strikes from here within a command shall not wait for these.
    from tests.run_folders import evaluations, shown_steps, steps

    return {
        "losses": steps(run),
        "gradients": steps(run, "grad_norm"),
        "measures": evaluations(run),
        "shown": shown_steps(run),
        "results": (run / "results.json").read_text(),
        "files": sorted(path.name for path in run.iterdir()),
        "checkpoints": sorted(
            str(path.relative_to(run)) for path in (run / "checkpoints").rglob("*")
        ),
    }


def main() -> None:
    from shards.build import build
    from tests.launch.conftest import write_recipe

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build("scenes", folder, splits=("train", "val"), options={"train": 192, "val": 48})
        recipe = write_recipe(folder / "tiny.yaml", folder)
        print(Storm(recipe, folder, given.seed).rage(given.kills))


if __name__ == "__main__":
    main()
