"""Hold a lock or semaphore that was acquired before a deadline."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gevent.lock import BoundedSemaphore

from getc.backends.fifo_lock import FifoLock
from getc.errors import TimedOut
from getc.timing import Deadline

__all__ = ['acquired']


@contextmanager
def acquired(
    lock: BoundedSemaphore | FifoLock, deadline: Deadline, action: str, blocker: str, key: str
) -> Iterator[None]:
    """Hold a lock or semaphore, acquired before a deadline.

    Raises:
        TimedOut: It was not free in time; nothing was sent.
    """
    if not lock.acquire(timeout=deadline.timeout_left()):
        raise TimedOut(f'could not {action} within {deadline.timeout:g} s: {blocker}', key=key)
    try:
        yield
    finally:
        lock.release()
