"""Mistakes on a command line: one line, and the command that lists what is allowed."""

import pytest

from xmodal.arguments import ArgumentParser
from xmodal.errors import UserError


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "the following arguments are required: COMMAND; see: x --help"),
        (["y", "--n", "z"], "argument --n: invalid int value: 'z'; see: x y --help"),
        (["y", "a\nb"], "unrecognized arguments: a\nb; see: x --help"),
    ],
)
def test_a_mistake_is_a_user_error(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = ArgumentParser(prog="x")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("y").add_argument("--n", type=int)
    with pytest.raises(UserError) as caught:
        parser.parse_args(words)
    assert str(caught.value) == says
    assert capsys.readouterr() == ("", "")
