"""Command lines: argparse, with one line for a mistake, as for any other mistake of a user's."""

import argparse
from typing import NoReturn

from xmodal.errors import UserError


class ArgumentParser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` that raises `UserError` if argparse prints its usage.

    Parsers of subcommands are of this class too.
    """

    def error(self, message: str) -> NoReturn:
        """Raise `UserError` with the mistake and the command that lists what is allowed."""
        raise UserError(f"{message}; see: {self.prog} --help")


def plugin_option(prog: str, adds: str) -> ArgumentParser:
    """Return a parser of `--plugin`, the option for modules with `adds`: a parent of others.

    A command parses it first, and imports the plugins, so that its help lists what they register.
    """
    parser = ArgumentParser(prog=prog, add_help=False, allow_abbrev=False)
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="MODULE",
        help=f"module with {adds} to import, repeatable",
    )
    return parser
