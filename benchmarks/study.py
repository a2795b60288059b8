"""A study: its arms trained on its data sets, a table a set, and differences between arms.

    python -m benchmarks.study NAME [--set NAME …] [--arm NAME …] [--seeds 5]
        [--override KEY=VALUE …] [--runs DIR] [--quick]

benchmarks/studies/NAME.py says what NAME trains and measures; docs/results.md has the commands that
build the shards in data/. Each arm is trained with seeds 0, 1, … in the folder
runs/studies/NAME/SET/ARM-SEED. The same command again resumes a study that was interrupted: runs
that are complete are not trained again. Other values of --override are other runs: give them
another folder by --runs.

Printed are means over seeds with their standard deviation, and of pairs of arms the mean difference
of runs of one seed with its 95 % interval (Student's t over seeds).
"""

import argparse
import shlex
import shutil
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import benchmarks.studies
from benchmarks.studies.study import Study
from benchmarks.study_table import Found, by_variant, differences, table
from benchmarks.trained import Trial
from xmodal.distributed.environment import Environment, start
from xmodal.errors import run_command

NAMES = sorted(one.name for one in iter_modules(benchmarks.studies.__path__) if one.name != "study")


def main() -> None:
    given, study = read_arguments()
    environment = start()
    for name in given.set:
        found, seconds = measure(study, name, given, environment)
        print(f"\n{name}\n", *table(found, study.columns), sep="\n")
        print("", *differences(found, study), sep="\n")
        print(f"{len(found)} rows, {given.seeds} seeds, {seconds / 3600:.2f} hours of one core:")
        print(f"python -m benchmarks.study {shlex.join(sys.argv[1:])}", flush=True)


def read_arguments() -> tuple[argparse.Namespace, Study]:
    """Return the options of the command line and the study that they name."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", metavar="NAME", choices=NAMES, help=", ".join(NAMES))
    parser.add_argument("--set", nargs="+", metavar="NAME", help="data sets; default: all")
    parser.add_argument("--arm", nargs="+", metavar="NAME", help="arms; default: all")
    parser.add_argument("--seeds", type=whole_number, help="default: 5, or with --quick 1")
    parser.add_argument("--override", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--runs", type=Path, help="default: runs/studies/NAME")
    parser.add_argument("--quick", action="store_true", help="one set, 20 steps a stage")
    given = parser.parse_args()
    study = load_study(given.name)
    own = Path("runs/studies", f"{given.name}-quick" if given.quick else given.name)
    given.seeds = given.seeds or (1 if given.quick else 5)
    if given.quick:
        given.set = given.set or [study.quick]
        if given.runs is None:
            shutil.rmtree(own, ignore_errors=True)
    given.runs = given.runs or own
    for option, known in (("set", study.sets), ("arm", study.arms)):
        chosen = getattr(given, option) or list(known)
        if unknown := [name for name in chosen if name not in known]:
            parser.error(f"--{option}: {given.name} has no {unknown[0]}; it has {', '.join(known)}")
        setattr(given, option, chosen)
    return given, study


def whole_number(text: str) -> int:
    """Return the number that a word of the command line is, of 1 or more."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def load_study(name: str) -> Study:
    """Return the study of a module of benchmarks/studies."""
    study: Study = import_module(f"benchmarks.studies.{name}").STUDY
    return study


def measure(
    study: Study, name: str, given: argparse.Namespace, environment: Environment
) -> tuple[Found, float]:
    """Return the metrics of each row and seed on a data set, and the seconds that they took."""
    found: Found = {}
    seconds = 0.0
    for arm in (arm for arm in study.arms_of(name) if arm in given.arm):
        for seed in range(min(given.seeds, study.arms[arm].seeds or given.seeds)):
            trial = Trial(
                study,
                study.sets[name],
                study.arms[arm],
                seed,
                given.runs / name / f"{arm}-{seed}",
                given.override,
                given.quick,
            )
            for label, metrics in trial.rows(environment).items():
                for row, own in by_variant(label, metrics, study.variants):
                    found.setdefault(row, []).append(own)
            seconds += trial.seconds
    return found, seconds


if __name__ == "__main__":
    run_command(main)
