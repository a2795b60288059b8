"""The documentation is right: commands go through the real parsers, and code runs."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from shards.__main__ import read_arguments as read_shards
from shards.build import build
from shards.source import find_source
from tests.commands import free_port
from tests.documented import ROOT, Text, is_form, pages, texts
from tests.pretrained_models import write_clip
from xmodal.assembly.recipe import RECIPES, read_recipe
from xmodal.components import plugins
from xmodal.components.component import Component
from xmodal.errors import UserError
from xmodal.tuning.space import read_space

# What makes a documented training small enough for a test; the keys stand in for nothing else.
SMALL = [
    "data.batch_size=16",
    "data.workers=0",
    "method.image.size=32",
    "method.image.name=test_vit",
    "method.text.layers=1",
    "method.text.width=32",
    "method.text.heads=2",
    "method.text.tokenizer.vocabulary=300",
    "stages.0.length=2 steps",
    "stages.0.schedule.warmup=1",
]
TEXTS = texts()
EVERY = [(text.name, command) for text in TEXTS for command in text.commands]
SCRIPT = re.compile(r"(?:launch/(\w+)\.py|slurm/(\w+)\.sbatch)")
WRONG = "bach_size"  # of the mistakes that pages show


def script_of(command: list[str]) -> tuple[str, list[str]]:
    """Return the subcommand that a command runs (train, evaluate, …), and its words."""
    for place, word in enumerate(command):
        if found := SCRIPT.fullmatch(word):
            return found[1] or found[2], command[place + 1 :]
    if "xmodal" in command:  # the console script, or `-m xmodal`
        name, *words = command[command.index("xmodal") + 1 :]
        return name, words
    return ("shards", command[3:]) if command[:3] == ["python", "-m", "shards"] else ("", [])


def parse(name: str, words: list[str]) -> None:
    """Give words to the command's own parser, which ends or raises where they are wrong."""
    if name == "shards":
        parse_shards(words)
        return
    known = f"xmodal.commands.{name}"
    module = import_module(known if find_spec(known) else f"launch.{name}")
    module.read_arguments([word.replace("%a", "0") for word in words])


def parse_shards(words: list[str]) -> None:
    arguments = read_shards(words)
    if words[0] == "build":
        named = {option.partition("=")[0] for option in arguments.options}
        assert named <= find_source(arguments.source).defaults.keys()


@cache
def options_of(name: str) -> set[str]:
    """Return the options that a command has, by its own help."""
    command = ["-m", "shards", "build"] if name == "shards" else [f"launch/{name}.py"]
    answer = subprocess.run(
        [sys.executable, *command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(re.findall(r"--[\w-]+", answer.stdout))


HUB = ("openai/clip-vit-base-patch32", "google/siglip-base-patch16-224")


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small models under names of the hub."""
    folder = tmp_path_factory.mktemp("hub")
    for name in HUB:
        write_clip(folder / name)
    return folder


@pytest.fixture
def readers_folder(tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with the recipes, spaces and modules that pages tell the reader to write."""
    shutil.copytree(ROOT / "examples" / "plugin", tmp_path, dirs_exist_ok=True)
    for name in ("my.yaml", "mine.yaml", "runs/quickstart-sweep/best.yaml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(RECIPES / "clip.yaml", path)
    for text in TEXTS:
        for language in ("python", "yaml"):
            for title, code in text.code(language):
                if title:
                    (tmp_path / title).write_text(code)
    for name in ("SPACE.yaml", "space.yaml", "SPACE"):
        shutil.copy(ROOT / "xmodal" / "spaces" / "quickstart.yaml", tmp_path / name)
    for name in ("benchmarks", "launch", "shards", "xmodal"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in HUB:
        place = tmp_path / name
        place.parent.mkdir()
        place.symlink_to(hub / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(plugins, "_imported", {})
    yield tmp_path
    forget_modules_of(tmp_path)


def forget_modules_of(folder: Path) -> None:
    """Forget the plugins that a test has imported, and what they have registered."""
    names = {path.stem for path in folder.iterdir() if not path.is_symlink()}

    def is_theirs(module: str) -> bool:
        return module.partition(".")[0] in names

    for family in Component.__subclasses__():
        for kind in [kind for kind, one in family.kinds.items() if is_theirs(one.__module__)]:
            del family.kinds[kind]
    for module in [module for module in sys.modules if is_theirs(module)]:
        del sys.modules[module]


@pytest.mark.parametrize(("page", "command"), EVERY, ids=[f"{p}-{' '.join(c)}" for p, c in EVERY])
def test_documented_commands_parse(page: str, command: list[str], readers_folder: Path) -> None:
    name, words = script_of(command)
    if not name:
        check_other(command)
    elif is_form(command):
        shown = {option for word in words for option in re.findall(r"^\[?(--[\w-]+)", word)}
        assert not shown or shown <= options_of(name)
    elif "--help" not in words:
        if any(WRONG in word for word in words):
            with pytest.raises(UserError, match=WRONG):
                parse(name, words)
        else:
            parse(name, ["build", *words] if "slurm/shards.sbatch" in command else words)
    for word in command:
        if word.startswith(("slurm/", "tests/", "examples/")):
            assert (ROOT / word.partition("::")[0]).exists(), f"{page} names {word}"


def check_other(command: list[str]) -> None:
    """Hold the commands of others to what of them is ours: targets, modules, extras."""
    if command[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert command[1] in targets
    if command[:2] == ["python", "-m"] and command[2] != "pytest":
        source = ROOT / f"{command[2].replace('.', '/')}.py"
        assert source.exists()
        assert all(w in source.read_text() for w in command[3:] if w.startswith("--"))
    if command[0] == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        for named in re.findall(r"\[([\w,]+)\]", " ".join(command)):
            assert set(named.split(",")) <= extras["optional-dependencies"].keys()


def test_launchers_know_the_documented_options() -> None:
    from deepspeed.launcher.runner import parse_args

    for _, command in EVERY:
        if command[0] == "deepspeed":
            parse_args(command[1:])


def test_pages_have_commands() -> None:
    with_commands = {page for page, _ in EVERY}
    guides = [str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md")]
    assert {"README.md", "CONTRIBUTING.md", *guides} - with_commands <= {"docs/python.md"}
    assert {script_of(command)[0] for _, command in EVERY} >= {
        "train",
        "evaluate",
        "tune",
        "shards",
    }


YAML = [(text.name, code) for text in TEXTS for _, code in text.code("yaml")]


@pytest.mark.parametrize(("page", "text"), YAML)
def test_documented_recipes_are_right(page: str, text: str, readers_folder: Path) -> None:
    """Whole recipes as they are, parts of one in the place of what `clip` says; spaces for it."""
    said = yaml.safe_load(text)
    if "space" in said:
        (readers_folder / "space.yaml").write_text(text)
        read_space(readers_folder / "space.yaml", read_recipe("clip", []))
        return
    if "method" not in said:
        clip = yaml.safe_load((RECIPES / "clip.yaml").read_text())
        said["data"] = clip["data"] | said.get("data", {})
        said = clip | said
    path = readers_folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(said))
    read_recipe(str(path), [])


def test_files_that_pages_tell_the_reader_to_write_pass_the_linter(tmp_path: Path) -> None:
    for text in TEXTS:
        for title, code in text.code("python"):
            if title:
                (tmp_path / title).write_text(code)
    config = ["--config", str(ROOT / "pyproject.toml"), "--no-cache", "."]
    inside = ["--config", 'lint.isort.known-first-party = ["xmodal"]']
    for check in (["check", *inside], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *check, *config],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout


def test_pages_have_recipes() -> None:
    named = {"docs/data.md", "docs/training.md", "docs/tutorials/own_data.md"}
    assert named <= {page for page, _ in YAML}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the commands in it and two shard sets from elsewhere, without manifests."""
    folder = tmp_path_factory.mktemp("workplace")
    for name in ("launch", "shards", "xmodal"):
        (folder / name).symlink_to(ROOT / name)
    made = build(
        "scenes", folder / "made", splits=["train", "val"], options={"train": 64, "val": 24}
    )
    for split, tars in made.items():
        target = folder / "data" / "mine" / split
        target.mkdir(parents=True)
        for tar in Path(tars).glob("*.tar"):
            shutil.copy(tar, target)
    return folder


@pytest.fixture(scope="module")
def trained(workplace: Path) -> Path:
    """That folder after the README's way of one's own data: every command but TensorBoard's, and
    the comparison with another run.
    """
    section = ROOT.joinpath("README.md").read_text().split("## Train on your own data")[1]
    block = section.split("```sh\n")[1].split("```")[0]
    commands = Text("block", f"```sh\n{block}```\n").commands
    skipped = {"tensorboard", "launch/compare.py"}
    walked = [command for command in commands if not skipped & {*command}]
    assert len(walked) == 4
    run(workplace, ["python", "-m", "shards", "index", "data/mine/val"])
    for command in walked:
        training = "launch/train.py" in command
        run(workplace, [*command, *SMALL] if training else command)
    return workplace


def test_the_readmes_way_of_ones_own_data(trained: Path) -> None:
    assert (trained / "runs" / "mine" / "results.json").is_file()


def run(folder: Path, command: list[str]) -> None:
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    if command[0] == "deepspeed":  # its own port may be that of another test
        command = [command[0], f"--master_port={free_port()}", *command[1:]]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"


# What a page's code takes from the reader's own program.
PRELUDES = {"docs/shards.md": "from pathlib import Path\npairs = [(Path('a.jpg'), ['a scene'])]"}
# One process for all of them: each block has names of its own, each page its files.
EXECUTE = """
import json, sys
sys.path.insert(0, "")
for page, prelude, code in json.load(sys.stdin):
    names = {"__name__": "documented"}
    exec(prelude, names)
    exec(compile(code, page, "exec"), names)
"""


def test_documented_python_runs(trained: Path) -> None:
    from PIL import Image

    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (40, 30), "red").save(trained / name)
    if not (trained / "runs" / "quickstart").exists():
        (trained / "runs" / "quickstart").symlink_to("mine")
    shards = ["--data", "data/mine/val", "--to", "embeddings/scenes"]
    run(trained, ["python", "launch/embed.py", "runs/mine", *shards])
    run(trained, ["python", "launch/index.py", "embeddings/scenes", "--to", "indices/scenes"])
    snippets = []
    for text in TEXTS:
        for title, code in text.code("python"):
            if title:
                (trained / title).write_text(code)
            snippets.append((text.name, PRELUDES.get(text.name, ""), "" if title else code))
    assert {page for page, *_ in snippets} >= {"docs/python.md", "docs/objectives.md"}
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE],
        input=json.dumps(snippets),
        cwd=trained,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
