"""Documented commands are right: all of them parse, and the way of one's own data is walked."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from shards.__main__ import read_arguments
from shards.build import build
from shards.source import find_source
from xmodal.assembly.recipe import read_recipe
from xmodal.tuning.space import read_space

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RECIPES = ROOT / "launch" / "recipes"
# What makes a documented training small enough for a test; the keys stand in for nothing else.
SMALL = [
    "data.batch_size=16",
    "data.workers=0",
    "method.image.size=32",
    "method.image.name=test_vit",
    "method.text.layers=1",
    "method.text.width=32",
    "method.text.heads=2",
    "method.text.vocabulary=300",
    "stages.0.length=2 steps",
    "stages.0.schedule.warmup=1",
]


def commands(page: Path) -> list[list[str]]:
    """The shell commands of a page's code blocks, continued lines joined, comments dropped."""
    blocks = re.findall(r"^```sh\n(.*?)^```|^((?:    .*\n)+)", page.read_text(), re.M | re.S)
    text = "\n".join("".join(block) for block in blocks).replace("\\\n", " ")
    lines = [line.strip().removeprefix("$ ") for line in text.splitlines()]
    known = ("python ", "deepspeed ", "sbatch ", "bash ", "make ", "tensorboard ")
    return [shlex.split(line, comments=True) for line in lines if line.startswith(known)]


EVERY = [(page.name, command) for page in PAGES for command in commands(page)]


def after(command: list[str], script: str) -> list[str]:
    return command[command.index(script) + 1 :]


def is_pattern(words: list[str]) -> bool:
    """A line such as `launch/train.py RECIPE [key=value …]` shows a form, not a command."""
    return any("[" in word or word in {"RECIPE", "SOURCE"} for word in words)


@pytest.mark.parametrize(("page", "command"), EVERY, ids=[f"{p}-{' '.join(c)}" for p, c in EVERY])
def test_documented_commands_parse(page: str, command: list[str]) -> None:
    if is_pattern(command):
        return
    for script in ("launch/train.py", "slurm/train.sbatch"):
        own = any(word.endswith(".yaml") for word in command)
        if script in command and "--help" not in command and not own:
            recipe, *overrides = (word.replace("%a", "0") for word in after(command, script))
            if not any("bach_size" in each for each in overrides):
                read_recipe(recipe, overrides, RECIPES)
    if command[:3] == ["python", "-m", "shards"]:
        check_of_shards(command[3:])
    elif command[:2] == ["python", "-m"]:
        assert (ROOT / f"{command[2].replace('.', '/')}.py").exists()
    if command[0] == "make":
        assert re.search(rf"^{command[1]}:", (ROOT / "Makefile").read_text(), re.M)
    for word in command:
        if word.startswith(("launch/", "slurm/")) and not word.endswith(".yaml:"):
            assert (ROOT / word).exists(), f"{page} names {word}"


@pytest.mark.parametrize("command", [c for _, c in EVERY if "slurm/shards.sbatch" in c])
def test_documented_conversions_by_jobs_parse(command: list[str]) -> None:
    check_of_shards(["build", *after(command, "slurm/shards.sbatch")])


def check_of_shards(words: list[str]) -> None:
    arguments = read_arguments(words)
    if words[0] == "build":
        named = {option.partition("=")[0] for option in arguments.options}
        assert named <= find_source(arguments.source).defaults.keys()


def test_pages_have_commands() -> None:
    with_commands = {page for page, _ in EVERY}
    named = {"README.md", "shards.md", "data.md", "training.md", "evaluation.md", "cluster.md"}
    assert named <= with_commands
    assert len(EVERY) > 20


YAML = [
    (page.name, text)
    for page in PAGES
    for text in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.M | re.S)
]


@pytest.mark.parametrize(("page", "text"), YAML)
def test_documented_recipes_are_right(page: str, text: str, tmp_path: Path) -> None:
    """Whole recipes as they are, parts of one in the place of what `clip` says; spaces for it."""
    said = yaml.safe_load(text)
    if "space" in said:
        (tmp_path / "space.yaml").write_text(text)
        read_space(tmp_path / "space.yaml", read_recipe("clip", [], RECIPES))
        return
    if "method" not in said:
        clip = yaml.safe_load((RECIPES / "clip.yaml").read_text())
        said["data"] = clip["data"] | said.get("data", {})
        said = clip | said
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(said))
    read_recipe(str(path), [], RECIPES)


def test_pages_have_recipes() -> None:
    assert {"data.md", "training.md"} <= {page for page, _ in YAML}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder with the commands in it and two shard sets from elsewhere, without manifests."""
    for name in ("launch", "shards", "xmodal"):
        (tmp_path / name).symlink_to(ROOT / name)
    made = build(
        "scenes", tmp_path / "made", splits=["train", "val"], options={"train": 64, "val": 24}
    )
    for split, folder in made.items():
        target = tmp_path / "data" / "mine" / split
        target.mkdir(parents=True)
        for tar in Path(folder).glob("*.tar"):
            shutil.copy(tar, target)
    return tmp_path


def test_the_readmes_way_of_ones_own_data(workplace: Path) -> None:
    """Every command of `Train on your own data` but TensorBoard's server, in order."""
    section = ROOT.joinpath("README.md").read_text().split("## Train on your own data")[1]
    block = section.split("```sh\n")[1].split("```")[0]
    page = workplace / "block.md"
    page.write_text(f"```sh\n{block}```\n")
    walked = [command for command in commands(page) if command[0] != "tensorboard"]
    assert len(walked) == 4
    run(workplace, ["python", "-m", "shards", "index", "data/mine/val"])
    for command in walked:
        training = "launch/train.py" in command
        run(workplace, [*command, *SMALL] if training else command)
    assert (workplace / "runs" / "mine" / "results.json").is_file()


def run(folder: Path, command: list[str]) -> None:
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"


PYTHON = re.findall(
    r"^```python\n(.*?)^```", (ROOT / "docs" / "objectives.md").read_text(), re.M | re.S
)


@pytest.mark.parametrize("code", PYTHON)
def test_documented_python_runs(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


def test_there_is_documented_python() -> None:
    assert PYTHON
