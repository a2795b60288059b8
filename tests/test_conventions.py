"""The rules of the house that no linter knows."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    path for folder in ("xmodal", "shards", "launch") for path in (ROOT / folder).rglob("*.py")
)

# From the top down: a module imports from its own package and from the lines below it.
LAYERS = [
    {"launch", "__main__"},
    {"commands"},
    {"tuning"},
    {"assembly"},
    {"training"},
    {"costs"},
    {"search"},
    {"runs"},
    {"evaluation"},
    {"formats"},
    {"methods"},
    {"objectives", "models"},
    {"distributed", "data"},
    {"components"},
    {
        "arguments",
        "extras",
        "hub",
        "precision",
        "small_files",
        "tensor_files",
        "terminal",
        "yaml_text",
    },
    {"activity", "atomic_files", "devices", "errors", "lazy_names", "phases"},
    {"freed_memory", "torch_environment"},
]
DEPTH = {package: depth for depth, packages in enumerate(LAYERS) for package in packages}
SHARDS_MAY_IMPORT = {
    *(
        f"xmodal.data.{name}"
        for name in (
            "decode",
            "digests",
            "fields",
            "limits",
            "manifest",
            "no_shards",
            "shard_index",
            "storage",
            "tar",
            "text_lengths",
        )
    ),
    "xmodal.atomic_files",
    "xmodal.components.plugins",
    "xmodal.data.samples",
    "xmodal.activity",
    "xmodal.arguments",
    "xmodal.components.component",
    "xmodal.components.declared",
    "xmodal.components.validation",
    "xmodal.errors",
    "xmodal.terminal",
}


def name_of(path: Path) -> str:
    """Return a module's dotted name."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> Iterator[str]:
    """Yield the dotted names that a module imports, at its head or within a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from resolve(str(node.module), [alias.name for alias in node.names])


def resolve(module: str, names: list[str]) -> Iterator[str]:
    """Yield what `from module import names` imports: submodules by their own name."""
    for name in names:
        folder = ROOT.joinpath(*module.split("."))
        is_module = (folder / f"{name}.py").exists() or (folder / name).is_dir()
        yield f"{module}.{name}" if is_module else module


def package_of(module: str) -> str | None:
    """Return the package of `LAYERS` that a module of the project belongs to."""
    top, *rest = module.split(".")
    if top == "launch":
        return "launch"
    if top != "xmodal" or not rest:
        return None
    return rest[0]


def test_every_package_has_its_layer() -> None:
    packages = {package_of(name_of(path)) for path in MODULES} - {None}
    assert packages <= DEPTH.keys()


def test_imports_run_one_way() -> None:
    upward = []
    for module, imported in (
        (name_of(path), name) for path in MODULES for name in imports_of(path)
    ):
        own, other = package_of(module), package_of(imported)
        if own and other and own != other and DEPTH[own] >= DEPTH[other]:
            upward.append(f"{module} imports {imported}")
    assert not upward


def test_shards_stand_apart_from_the_training() -> None:
    for path in (ROOT / "shards").rglob("*.py"):
        ours = {name for name in imports_of(path) if name.split(".")[0] in ("xmodal", "launch")}
        assert ours <= SHARDS_MAY_IMPORT, f"{name_of(path)} imports {ours - SHARDS_MAY_IMPORT}"


def test_the_library_does_not_know_its_commands() -> None:
    for path in (ROOT / "xmodal").rglob("*.py"):
        tops = {name.split(".")[0] for name in imports_of(path)}
        # Commands build the shards of a recipe that are missing.
        others = {"launch"} if package_of(name_of(path)) == "commands" else {"launch", "shards"}
        assert not tops & others, f"{name_of(path)} imports {tops}"


def test_modules_are_named_for_what_they_hold() -> None:
    vague = {"utils", "util", "helpers", "misc", "common"}
    assert not [path for path in MODULES if vague & set(name_of(path).split("."))]


COMMANDS = [["-m", "shards"], *([str(path)] for path in sorted((ROOT / "launch").glob("*.py")))]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: Path(command[-1]).stem)
def test_help_answers_without_torch(command: list[str]) -> None:
    answer = subprocess.run(
        [sys.executable, "-X", "importtime", *command, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    lines = answer.stderr.splitlines()
    said = [line for line in lines if not line.startswith("import time:")]
    assert answer.returncode == 0, said
    assert "usage:" in answer.stdout
    imported = {line.split("|")[-1].strip().split(".")[0] for line in lines}
    assert "argparse" in imported
    assert not imported & {"torch", "deepspeed", "transformers", "timm", "webdataset"}


def test_no_file_names_a_place_of_one_machine() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: which files are the project's is not known")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    place = re.compile(rb"(?<![\w.~-])/(work|root)(/|\b)")
    files = [ROOT / name.decode() for name in listed.stdout.split(b"\0") if name]
    assert not [path for path in files if path.is_file() and place.search(path.read_bytes())]


def test_consoles_are_those_that_escape() -> None:
    made = re.compile(r"rich import console|import .*\bConsole\b|get_console|rich import print")
    assert [path.name for path in MODULES if made.search(path.read_text())] == ["terminal.py"]


def test_ranks_exchange_no_pickles() -> None:
    pickles = re.compile(r"(gather|broadcast|scatter|send|recv)_object(?!s)|pickle\.loads?\(")
    folder = ROOT / "xmodal"
    assert [p for p in folder.rglob("*.py") if pickles.search(p.read_text())] == []
