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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import cycle
from pathlib import Path

import psutil

from tests.commands import Done, train

SECONDS = 90  # in which all ranks have to be gone, however busy the machine is
RANKS, BOTH, LOADERS = ("rank 0", "rank 1"), "both", "loaders"


@dataclass(frozen=True)
class Phase:
    """A part of a training, by a function that it calls at least so often, or not."""

    place: str
    most: int
    victims: Sequence[str] = (*RANKS, BOTH)


# In an order in which each finds what it needs: of a run that begins nothing is recovered.
PHASES = {
    "steps": Phase("xmodal.training.gradient_cache:GradientCache.backward", 7, (*RANKS, LOADERS)),
    "agreement": Phase("xmodal.training.trainer:Trainer._agree", 7),
    "recovery": Phase("xmodal.training.wholeness:_fault", 2),
    "writing": Phase("xmodal.training.writer:_write", 4),
    "renaming": Phase("xmodal.training.run:Path.rename", 3, RANKS[:1]),
    "loading": Phase("xmodal.training.trainer:load_checkpoint", 1),
    "naming": Phase("xmodal.training.saving:write_atomically", 3, RANKS[:1]),
    "imports": Phase("xmodal.distributed.environment:keep_within", 1),
    "rendezvous": Phase("xmodal.distributed.rollcall:Roll.wait", 1),
    "pruning": Phase("shutil:os.unlink", 4, RANKS[:1]),
    "engine": Phase("xmodal.training.trainer:initialize_engine", 1),
    "process groups": Phase("torch.distributed:new_group", 1, RANKS),
    "evaluation": Phase("xmodal.evaluation.gallery:_embed_batch", 2, (*RANKS, BOTH)),
}


@dataclass
class Strike:
    """Kills, when it is called for the so-manieth time; to be called before a phase's function."""

    victim: str
    number: int
    mark: Path
    calls: int = 0

    def __call__(self, *_: object, **__: object) -> None:
        self.calls += 1
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
    zeros: Sequence[int]
    seed: int = 0
    starts: int = 0
    ended: int = 0  # runs
    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    longest: dict[tuple[str, str], float] = field(default_factory=dict)

    def rage(self, kills: int) -> str:
        """Kill so often, bring the last run to its end, and return the table."""
        draw, plan = random.Random(self.seed), self._plan()
        while self.kills.total() < kills:
            phase, victim = next(plan)
            self._start(phase, victim, draw.randint(1, PHASES[phase].most))
        while not self._is_over(self._start_undisturbed()):
            pass
        return self._table()

    def _plan(self) -> Iterator[tuple[str, str]]:
        victims = {name: cycle(phase.victims) for name, phase in PHASES.items()}
        for name in cycle(PHASES):
            yield name, next(victims[name])

    def _start(self, phase: str, victim: str, number: int) -> None:
        mark = self.folder / "struck"
        mark.unlink(missing_ok=True)
        begun = time.monotonic()
        done = self._train({PHASES[phase].place: Strike(victim, number, mark)})
        seconds = time.monotonic() - begun
        assert seconds < SECONDS, f"{victim} killed in {phase} ({number}), and others wait: {done}"
        assert done.code in (0, 75, -signal.SIGKILL), (phase, victim, number, done)
        if mark.exists():
            self.kills[phase, victim] += 1
            self.longest[phase, victim] = max(seconds, self.longest.get((phase, victim), 0))
        self._is_over(done)

    def _start_undisturbed(self) -> Done:
        done = self._train({})
        assert done.code in (0, 75), done
        return done

    def _train(self, before: dict[str, Strike]) -> Done:
        self.starts += 1
        hurried = {"xmodal.distributed.environment:adopt_launcher": hurry}
        return train(
            *self._keys(self.ended),
            f"run={self.folder}/{self.ended}",
            ranks=2,
            before={**hurried, **before},
            seconds=SECONDS,
            launcher=False,
        )

    def _keys(self, run: int) -> list[object]:
        zero = self.zeros[run % len(self.zeros)]
        keys = ["data.workers=1", "checkpoints.every=2 steps"]
        keys += ["training.watchdog=8", "training.roll_call=5"]
        return [self.recipe, f"training.zero={zero}", *keys]

    def _is_over(self, done: Done) -> bool:
        """Tell whether the run has come to its end, and then compare it with an undisturbed one."""
        if done.code:
            return False
        run, whole = self.folder / str(self.ended), self._whole(self.ended % len(self.zeros))
        assert facts(run) == facts(whole), done
        self.ended += 1
        return True

    @cache  # noqa: B019
    def _whole(self, run: int) -> Path:
        whole = self.folder / f"undisturbed-{run}"
        done = train(*self._keys(run), f"run={whole}", ranks=2)
        assert done.code == 0, done
        return whole

    def __hash__(self) -> int:
        return id(self)

    def _table(self) -> str:
        rows = [
            f"{phase:<15} {victim:<8} {count:>5} {self.longest[phase, victim]:>9.1f}"
            for (phase, victim), count in sorted(self.kills.items())
        ]
        head = f"{'killed in':<15} {'who':<8} {'kills':>5} {'longest s':>9}"
        total = (
            f"{self.kills.total()} kills, {self.starts} starts, {self.ended} runs that ended as "
            "if nobody had disturbed them"
        )
        return "\n".join([head, *rows, total])


def facts(run: Path) -> dict[str, object]:
    """Return what a run that was killed has to have in common with one that was not."""
    # What strikes from here within a command shall not wait for these.
    from tests.runs import evaluations, shown_steps, steps

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
        print(Storm(recipe, folder, (0, 1, 2, 3), given.seed).rage(given.kills))


if __name__ == "__main__":
    main()
