"""A greenlet that waits for a lock, and holds it."""

from __future__ import annotations

import gevent
from gevent.event import Event

import getc
from getc.recipes import ReadLock, Semaphore, WriteLock

__all__ = ['Waiter']


class Waiter:
    """A greenlet that acquires a lock, one side of an RW lock, or a semaphore, and holds it until :meth:`let_go`.

    Attributes:
        lock: What it acquires.
        tokens: The token, once it was acquired.
        greenlet: The greenlet.
    """

    def __init__(self, lock: getc.Lock | ReadLock | WriteLock | Semaphore) -> None:
        self.lock = lock
        self.tokens: list[int] = []
        self._done = Event()
        self.greenlet = gevent.spawn(self._run)

    def _run(self) -> None:
        with self.lock as token:
            self.tokens.append(token)
            self._done.wait()

    @property
    def has_lock(self) -> bool:
        """True from the acquisition to the end of the greenlet."""
        return bool(self.tokens) and not self.greenlet.dead

    def let_go(self) -> None:
        """Release the lock, and wait for the end of the greenlet.  Raises what the release raises."""
        self._done.set()
        self.greenlet.get(timeout=30)
