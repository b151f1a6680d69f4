"""Waits until a follower has received everything that the store had at a moment.

The index of the store is read, linearizable, and the watch reports when it has delivered everything up to that index.
All greenlets that wait share one read and one report: those that begin during a read share the next one, because the
read in flight may miss what was written before they began.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import gevent
from gevent.event import AsyncResult

from getc.error_context import copy_error
from getc.errors import EtcException, TimedOut
from getc.retry import is_transient
from getc.timing import Backoff, Deadline

__all__ = ['Synchronizer']

READ_TIMEOUT: Final = 5.0
"""Seconds for one attempt to read the index of the store."""


class _Wait:
    """One greenlet that waits.

    Attributes:
        target: The index that the watch has to reach; 0 before it was read.
        outcome: The index that was reached, or the error.
    """

    __slots__ = ('outcome', 'target')

    def __init__(self) -> None:
        self.target = 0
        self.outcome: AsyncResult[int | EtcException] = AsyncResult()


class Synchronizer:
    """Waits until a follower has received everything that the store had when the wait began.

    Without waits it holds nothing.  While there is no watch, or the index cannot be read, waits go on.

    Args:
        name: The operation and the key, for errors.
        read_index: Returns the index of the store, by a linearizable read.  Blocks until the deadline at most.
        request: Called with an index: asks the watch to report, by ``on_progress``, when it has delivered everything up
            to that index.  It must not block or raise; without a watch it does nothing.
        spawn: Starts a greenlet, which is killed when the follower has stopped.
    """

    __slots__ = (
        '_awaited',
        '_last_error',
        '_name',
        '_read_index',
        '_reader',
        '_reading',
        '_request',
        '_spawn',
        '_unread',
        '_watch',
    )

    def __init__(
        self,
        name: str,
        read_index: Callable[[Deadline], int],
        request: Callable[[int], object],
        spawn: Callable[[Callable[[], None]], gevent.Greenlet[..., None]],
    ) -> None:
        self._name = name
        self._read_index = read_index
        self._request = request
        self._spawn = spawn
        self._unread: dict[_Wait, None] = {}  # need a read that begins from now on
        self._reading: dict[_Wait, None] = {}  # need the read in flight
        self._awaited: dict[_Wait, None] = {}  # need the report of the watch
        self._reader: gevent.Greenlet[..., None] | None = None
        self._watch = 0  # the number of the current watch
        self._last_error: EtcException | None = None  # of the last read, if it failed

    def wait(self, deadline: Deadline) -> int:
        """Wait until the follower has received everything that the store had when this call began.  Blocks.

        Returns:
            The index that the follower has reached.

        Raises:
            TimedOut: That was not so before the deadline.
            EtcException: The store refuses the read, or the follower was stopped.
        """
        wait = _Wait()
        self._unread[wait] = None
        self._start_reading()
        try:
            if not wait.outcome.wait(deadline.timeout_left()) and not wait.outcome.ready():
                raise self._timed_out(wait, deadline)
        finally:
            for waits in (self._unread, self._reading, self._awaited):
                waits.pop(wait, None)
        outcome = wait.outcome.get(block=False)
        if isinstance(outcome, EtcException):
            raise copy_error(outcome)
        assert outcome is not None
        return outcome

    def on_new_watch(self) -> None:
        """Read the index again for all waits: another watch has caught up, perhaps with a store that was restored."""
        self._watch += 1
        if self._awaited:
            self._unread = {**self._awaited, **self._unread}
            self._awaited = {}
            self._start_reading()

    def on_progress(self, index: int) -> None:
        """End the waits up to this index: everything up to it was received."""
        for wait in [wait for wait in self._awaited if wait.target <= index]:
            del self._awaited[wait]
            wait.outcome.set(index)

    def fail(self, error: EtcException) -> None:
        """End all waits with copies of this error."""
        waits = [*self._awaited, *self._reading, *self._unread]
        self._awaited, self._reading, self._unread = {}, {}, {}
        for wait in waits:
            wait.outcome.set(error)

    def _start_reading(self) -> None:
        if self._reader is None or self._reader.ready():  # ready: it was killed before it ran
            self._reader = self._spawn(self._read)

    def _read(self) -> None:
        backoff = Backoff()
        try:
            while self._unread:
                self._reading, self._unread = self._unread, {}
                if self._read_once():
                    backoff.reset()
                else:
                    gevent.sleep(backoff.next_delay())
        finally:
            self._reader = None

    def _read_once(self) -> bool:
        """Read the index, and request the report.  Return False if that has failed."""
        watch = self._watch
        index = 0
        try:
            index = self._read_index(Deadline(READ_TIMEOUT))
            self._last_error = None
        except EtcException as error:
            if not is_transient(error):
                refused, self._reading = self._reading, {}
                for wait in refused:
                    wait.outcome.set(error)
                return True
            self._last_error = error
            return False
        finally:  # also if this greenlet was killed
            waits, self._reading = self._reading, {}
            if not index or watch != self._watch:  # or it may be that of the store before it was restored
                self._unread = {**waits, **self._unread}
            elif waits:
                for wait in waits:
                    wait.target = index
                self._awaited.update(waits)
                self._request(index)
        return True

    def _timed_out(self, wait: _Wait, deadline: Deadline) -> TimedOut:
        what = f'{self._name} did not show everything that etcd had'
        if wait.target:
            what += f', up to index {wait.target},'
        reason = '' if self._last_error is None else f': {self._last_error}'
        return TimedOut(f'{what} within {deadline.timeout:g} s{reason}')
