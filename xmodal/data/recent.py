"""Cache of recently used objects: one bound for all owners in a process."""

import os
import weakref
from collections.abc import Callable, Hashable
from threading import RLock
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Cache of the `limit` most recently used objects, which die with their owners.

    Callers keep a reference while they use an object. Safe in threads and after a fork.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held: dict[tuple[int, Hashable], T] = {}  # the one used last comes last
        self._owners: set[int] = set()
        # An owner may go at any moment, even in the middle of what holds the lock.
        self._lock = RLock()
        os.register_at_fork(after_in_child=self._unlock)

    def get(self, owner: object, key: Hashable, make: Callable[[], T]) -> T:
        """Return an owner's object for a key; create it if it is not cached."""
        place = id(owner), key
        with self._lock:
            self._follow(owner)
            found = self._held.pop(place, None)
            if found is not None:
                self._held[place] = found
                return found
        made = make()
        with self._lock:
            self._held[place] = made
            while len(self._held) > self.limit:
                del self._held[next(iter(self._held))]
        return made

    def clear(self) -> None:
        """Empty the cache."""
        with self._lock:
            self._held.clear()

    def _follow(self, owner: object) -> None:
        if id(owner) not in self._owners:
            self._owners.add(id(owner))
            weakref.finalize(owner, self._forget, id(owner)).atexit = False

    def _forget(self, owner: int) -> None:
        with self._lock:
            self._owners.discard(owner)
            for place in [place for place in self._held if place[0] == owner]:
                del self._held[place]

    def _unlock(self) -> None:
        self._lock = RLock()
