"""A lock that greenlets hold in the order in which they asked for it, so that the writes of one node keep their order.

The semaphores of gevent give no such order: between the release of one and the start of the greenlet that waits for it,
any other greenlet can acquire it.
"""

from __future__ import annotations

from collections import deque

from gevent.event import Event

__all__ = ['FifoLock']


class FifoLock:
    """A lock for the greenlets of one thread, first come, first served.  A greenlet that holds it must not acquire it.

    A waiting greenlet that is killed, or times out, leaves the line.
    """

    __slots__ = ('_is_held', '_waiting')

    def __init__(self) -> None:
        self._is_held = False
        self._waiting: deque[Event] | None = None  # most locks are never waited for, and there are thousands

    def acquire(self, timeout: float | None = None) -> bool:
        """Acquire the lock after all who wait for it.  Blocks.

        Args:
            timeout: Seconds; None for no limit.

        Returns:
            False if the timeout has passed.
        """
        if not self._is_held:
            self._is_held = True
            return True
        if self._waiting is None:
            self._waiting = deque()
        turn = Event()
        self._waiting.append(turn)
        is_acquired = False
        try:
            turn.wait(timeout)
            is_acquired = turn.is_set()
        finally:
            if not is_acquired:
                self._leave(turn)
        return is_acquired

    def release(self) -> None:
        """Release the lock, or pass it to the greenlet that has waited longest.  Does not block."""
        if self._waiting:
            self._waiting.popleft().set()
        else:
            self._is_held = False

    def _leave(self, turn: Event) -> None:
        if turn.is_set():  # the lock was passed to a greenlet that has just been killed
            self.release()
        elif self._waiting is not None:
            self._waiting.remove(turn)
