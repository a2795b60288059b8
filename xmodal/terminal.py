"""Console of rich that escapes untrusted text: only rich itself moves the cursor."""

import sys
from collections.abc import Iterable
from typing import Any

from rich import console as rich
from rich.segment import Segment

from xmodal.errors import Guarded, printable


def console(*, stderr: bool = False, **options: Any) -> rich.Console:
    """Return a console on stdout or stderr; the options are those of rich."""
    stream = sys.stderr if stderr else sys.stdout
    file = stream.unguarded if isinstance(stream, Guarded) else stream
    return _Console(file=file, **options)


class _Console(rich.Console):
    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        """Return the output: `printable` text, and rich's own control codes."""
        return super()._render_buffer(s if s.control else _shown(s) for s in buffer)


def _shown(segment: Segment) -> Segment:
    lines = map(printable, segment.text.split("\n"))
    return Segment("\n".join(lines), segment.style)
