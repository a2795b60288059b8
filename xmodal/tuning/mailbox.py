"""Mailbox between a trial and its workers."""

import asyncio
from typing import Any


class Mailbox:
    """Passes reports of workers to their trial, and answers back; an actor of Ray."""

    def __init__(self) -> None:
        self.letters: asyncio.Queue[Any] = asyncio.Queue()
        self.answers: asyncio.Queue[None] = asyncio.Queue()

    async def report(self, measured: dict[str, Any]) -> None:
        """Put a report in, and wait until it is answered."""
        await self.letters.put(measured)
        await self.answers.get()

    async def put(self, letter: Any) -> None:
        """Put in the end of the workers, which needs no answer: the error, None for success."""
        await self.letters.put(letter)

    async def next(self) -> Any:
        """Wait for the next letter and return it."""
        return await self.letters.get()

    async def answer(self) -> None:
        """Let the worker that has reported continue."""
        await self.answers.put(None)
