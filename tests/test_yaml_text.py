"""YAML from strangers: of a bounded size, in bounded time, and every fault one line."""

import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from xmodal.errors import UserError
from xmodal.yaml_text import parse_yaml, read_yaml

LAUGHS = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x]"]
    + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]" for n in range(1, 9)]
)
MERGES = "\n".join(
    ["a0: &a0 {x: 1, y: 2}"]
    + [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 8)}]}}" for n in range(1, 9)]
)
BOMBS = {
    "aliases": LAUGHS,
    "merges": MERGES,
    "itself": "a: &a [*a]",
    "long": "a: " + "x" * 2**21,
    "wide": "a: [" + "x," * 200_000 + "]",
    "deep": "a: " + "[" * 100_000,
    "deep in blocks": "a:\n" + "".join(" " * n + "- a:\n" for n in range(1, 1200)),
    "digits": "a: " + "9" * 10_000,
    "hexadecimals": "a: 0x" + "f" * 10_000,
    "date": "a: 2001-99-99",
    "no float": "a: !!float x",
    "no boolean": "a: !!bool x",
    "no date": "a: !!timestamp x",
    "object": "a: !!python/object/apply:os.system [true]",
    "name": "a: !!python/name:os.system",
    "key": "? [a]\n: 1",
    "control": "a: \x07",
    "alias": "a: *b",
    "cut": "a: [",
    "tab": "a:\n\t- b",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_what_is_no_small_yaml_is_one_line_at_once(bomb: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(BOMBS[bomb])
    with pytest.raises(UserError, match=rf"^{path} is not YAML: .") as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)


def test_a_command_takes_no_memory_for_it(tmp_path: Path) -> None:
    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))

    (tmp_path / "laughs.yaml").write_text(LAUGHS.replace("a8:", "data:"))
    with (tmp_path / "sparse.yaml").open("wb") as file:
        file.truncate(2**33)
    for name in ("laughs", "sparse"):
        done = subprocess.run(
            [sys.executable, "launch/train.py", f"{tmp_path}/{name}.yaml"],
            capture_output=True,
            text=True,
            preexec_fn=bounded,
            cwd=Path(__file__).parents[1],
        )
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith(f"error: {tmp_path}/{name}.yaml is not YAML: ")
        assert done.stderr.count("\n") == 1


def test_aliases_of_a_usual_size_are_read() -> None:
    text = "base: &base {lr: 1.0, on: true}\nstages: [*base, {<<: *base, lr: 2.0}]\n"
    assert parse_yaml(text)["stages"] == [{"lr": 1.0, True: True}, {"lr": 2.0, True: True}]


@given(st.text())
def test_any_text_is_read_as_by_pyyaml_or_refused(text: str) -> None:
    with suppress(ValueError):
        assert repr(parse_yaml(text)) == repr(yaml.safe_load(text))
