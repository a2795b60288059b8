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
