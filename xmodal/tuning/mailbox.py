"""Between a trial's workers and the trial."""

import asyncio
from typing import Any


class Mailbox:
    """Brings what a trial's workers report to the trial, and the answer back: an actor of Ray's."""

    def __init__(self) -> None:
        self.letters: asyncio.Queue[Any] = asyncio.Queue()
        self.answers: asyncio.Queue[None] = asyncio.Queue()

    async def report(self, measured: dict[str, Any]) -> None:
        """Put a report in, and wait until it is answered."""
        await self.letters.put(measured)
        await self.answers.get()

    async def put(self, letter: Any) -> None:
        """Put in what needs no answer: why the workers ended, None where they did their work."""
        await self.letters.put(letter)

    async def next(self) -> Any:
        """Wait for the next letter and return it."""
        return await self.letters.get()

    async def answer(self) -> None:
        """Let the worker that has reported continue."""
        await self.answers.put(None)
