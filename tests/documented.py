"""Commands and code of the documentation: of README, CONTRIBUTING, pages, docstrings, scripts."""

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAMS = (
    *("python", "deepspeed", "sbatch", "bash", "make", "tensorboard", "pip", "pytest"),
    *("xmodal", "zensical", "srun", "torchrun"),
)
# What stands for a word of the reader's, so that a line shows a form and is no command.
FORMS = {"RECIPE", "SOURCE"}


@dataclass(frozen=True)
class Text:
    """A documented text: a page, a docstring, or the head of a script."""

    name: str
    text: str

    @property
    def commands(self) -> list[list[str]]:
        """The commands of shell blocks and indented ones, without comments, lines joined."""
        blocks = re.findall(r"^```sh\n(.*?)^```|^((?:    .*\n)+)", self.text, re.M | re.S)
        text = "\n".join("".join(block) for block in blocks).replace("\\\n", " ")
        lines = [line.strip().removeprefix("$ ") for line in text.splitlines()]
        words = [shlex.split(line, comments=True) for line in lines if _is_command(line)]
        return [_without_variables(command) for command in words]

    def code(self, language: str) -> list[tuple[str, str]]:
        """The (title, text) of code blocks of a language; of most the title is empty."""
        pattern = rf'^```{language}(?: title="([^"]+)")?\n(.*?)^```'
        return re.findall(pattern, self.text, re.M | re.S)


def pages() -> list[Path]:
    """Return every Markdown file that users and contributors read."""
    return [
        *sorted(ROOT.glob("*.md")),
        *sorted(ROOT.glob("docs/**/*.md")),
        *sorted(ROOT.glob("examples/**/*.md")),
    ]


def texts() -> list[Text]:
    """Return all documented texts."""
    return [
        *(Text(str(page.relative_to(ROOT)), page.read_text()) for page in pages()),
        *(Text(str(path.relative_to(ROOT)), _docstrings(path)) for path in _public_modules()),
        *(Text(str(path.relative_to(ROOT)), _head(path)) for path in ROOT.glob("slurm/*.sbatch")),
    ]


def is_form(words: list[str]) -> bool:
    """Tell whether a line such as `launch/train.py RECIPE [key=value …]` shows a form."""
    return any("[" in word.partition("=")[0] or word in {*FORMS, "…", "|"} for word in words)


def _public_modules() -> Iterator[Path]:
    commands = "launch/*.py", "*/__main__.py", "xmodal/commands/*.py"
    for pattern in (*commands, "examples/**/*.py"):
        yield from sorted(ROOT.glob(pattern))
    yield from (ROOT / "xmodal" / name / "__init__.py" for name in ("", "objectives"))


def _docstrings(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text())) or ""


def _head(script: Path) -> str:
    """Return the comment at the head of a script; what is indented in it is a command."""
    lines = [line for line in script.read_text().splitlines() if line.startswith("#")]
    return "".join(f"{line[1:].replace('   ', '    ', 1)}\n" for line in lines)


def _is_command(line: str) -> bool:
    bare = re.sub(r"^(?:[A-Z_]+=\S* +)+", "", line)
    return bare.split(" ")[0] in PROGRAMS and " " in bare


def _without_variables(words: list[str]) -> list[str]:
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    return words
