"""What can go wrong between a client and a store in memory."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from gevent.event import AsyncResult
from gevent.hub import get_hub

from getc.backends.base import Watch, WatchListener
from getc.backends.memory.backend import MemoryBackend
from getc.backends.memory.notifier import SharedStore
from getc.errors import ClientClosed, ConnectionError, ConnectionRefused, EtcException, TimedOut
from getc.operations import Get, Operation, WatchSpec
from getc.results import EtcdResult
from getc.timing import Deadline

__all__ = ['Faults', 'LinkedBackend']

Do = Callable[[], EtcdResult]


class Faults:
    """A way to the store, which is as good or as bad as it is told to be.

    A fault is met by calls: those of the test, and those of daemons, whose renewals are calls, too.
    """

    def __init__(self) -> None:
        self._is_connected = True
        self._delay = 0.0
        self._failures: deque[EtcException] = deque()
        self._replies_to_lose = 0
        self._ends: dict[LinkedBackend, None] = {}  # who goes this way, in the order in which they came

    @property
    def is_connected(self) -> bool:
        """False between :meth:`disconnect` and :meth:`connect`."""
        return self._is_connected

    def disconnect(self) -> None:
        """Break all connections and refuse new ones, until :meth:`connect`.

        Calls raise :class:`~getc.ConnectionRefused`, those under way a :class:`~getc.ConnectionError` with
        ``maybe_applied`` if they write; watches end; renewals fail.
        """
        self._is_connected = False
        self._break_off('the connection broke')

    def connect(self) -> None:
        """Let calls through again.  Does nothing if they are."""
        self._is_connected = True

    def fail_next(self, error: EtcException) -> None:
        """Have the next call raise this, and do nothing.  Called again: the call after that, too.

        Raises:
            TypeError: It is nothing that a getc client raises.
        """
        if not isinstance(error, EtcException):
            raise TypeError(f'a call fails with a getc.EtcException, not with {error!r}')
        self._failures.append(error)

    def lose_next_reply(self) -> None:
        """Have the next write done and its answer lost: it raises a ConnectionError, with ``maybe_applied``."""
        self._replies_to_lose += 1

    def delay(self, seconds: float) -> None:
        """Have each answer take so long from now on, after the store has done what was asked; 0 for no time.

        A call whose timeout is shorter raises :class:`~getc.TimedOut`, with ``maybe_applied`` if it writes.
        ``math.inf`` is a store that never answers.  A watch begins after that time; what has begun is not delayed.

        Raises:
            ValueError: It is negative or not a number.
        """
        if not seconds >= 0:
            raise ValueError(f'a delay is at least 0 s, not {seconds}')
        self._delay = seconds

    def _check_connected(self) -> None:
        if not self._is_connected:
            raise ConnectionRefused('the store is disconnected')

    def _pass(self, call: _Call, do: Do) -> EtcdResult:
        """Do it, or what becomes of it on this way."""
        self._check_connected()
        if self._failures:
            raise self._failures.popleft()
        try:
            result = do()
        except EtcException:
            self._bring_back(call)
            raise
        self._bring_back(call)
        return result

    def _bring_back(self, call: _Call) -> None:
        """The answer is on its way, which may be a refusal."""
        if call.operation.is_write and self._replies_to_lose:
            self._replies_to_lose -= 1
            raise ConnectionError('the answer was lost', maybe_applied=True)
        if self._delay:
            call.wait(self._delay)

    def _break_off(self, reason: str) -> None:
        for end in list(self._ends):
            end.fail_with(reason)


class LinkedBackend(MemoryBackend):
    """A client's backend whose calls go to the store by ways that may have faults.

    Args:
        store: The store.
        ways: What a call passes, from the client to the store.
    """

    def __init__(self, store: SharedStore, ways: Sequence[Faults]) -> None:
        super().__init__(store)
        self._ways = ways
        self._calls: dict[_Call, None] = {}  # under way
        self._delayed: dict[_DelayedWatch, None] = {}
        for way in ways:
            way._ends[self] = None

    def execute(self, operation: Operation, deadline: Deadline) -> EtcdResult:
        self._check_open()
        call = _Call(operation, deadline)
        do: Do = partial(super().execute, operation, deadline)
        for way in reversed(self._ways):
            do = partial(way._pass, call, do)
        self._calls[call] = None
        try:
            return do()
        finally:
            del self._calls[call]

    def watch(self, spec: WatchSpec, listener: WatchListener, after: Watch | None = None) -> Watch:
        self._check_open()
        try:
            for way in self._ways:
                way._check_connected()
        except ConnectionRefused as error:
            return _RefusedWatch(listener, error)
        delay = sum(way._delay for way in self._ways)
        return _DelayedWatch(self, spec, listener, delay) if delay else super().watch(spec, listener, after)

    def begin_watch(self, delayed: _DelayedWatch) -> Watch:
        """The answer to a watch has come."""
        return super().watch(delayed.spec, delayed.listener)

    def ready(self, deadline: Deadline) -> None:
        self.execute(Get('/'), deadline)

    def fail_with(self, reason: str) -> None:
        """End every watch, and every call that is under way."""
        self.end_watches(ConnectionError(reason))
        for delayed in list(self._delayed):
            delayed.end(ConnectionError(reason))
        for call in self._calls:
            call.end(ConnectionError(reason, maybe_applied=call.operation.is_write))

    def close(self) -> None:
        super().close()
        for way in self._ways:
            way._ends.pop(self, None)
        for delayed in list(self._delayed):
            delayed.close()
        for call in self._calls:
            call.end(ClientClosed('the client was closed', maybe_applied=call.operation.is_write))


class _Call:
    """A call that is under way."""

    def __init__(self, operation: Operation, deadline: Deadline) -> None:
        self.operation = operation
        self._deadline = deadline
        self._end: AsyncResult[EtcException] = AsyncResult()

    def wait(self, seconds: float) -> None:
        """Return after so many seconds; raise what ends the call before."""
        left = self._deadline.remaining()
        patience = min(seconds, left)
        error = self._end.wait(None if patience == math.inf else patience)
        if error is not None:
            raise error
        if seconds > left:
            raise TimedOut(f'no answer within {self._deadline.timeout:g} s', maybe_applied=self.operation.is_write)

    def end(self, error: EtcException) -> None:
        """Have it raise this, if it still waits."""
        self._end.set(error)


class _DelayedWatch(Watch):
    """A watch that begins after so many seconds, if ever.

    Attributes:
        spec: What it will follow.
        listener: Whom it will tell.
    """

    def __init__(self, backend: LinkedBackend, spec: WatchSpec, listener: WatchListener, seconds: float) -> None:
        self.spec = spec
        self.listener = listener
        self._backend = backend
        self._watch: Watch | None = None
        backend._delayed[self] = None
        self._timer: Any = get_hub().loop.timer(0.0 if seconds == math.inf else seconds)
        if seconds != math.inf:
            self._timer.start(self._begin)

    def close(self) -> None:
        self._timer.close()
        self._backend._delayed.pop(self, None)
        if self._watch is not None:
            self._watch.close()

    def end(self, error: EtcException) -> None:
        """It is lost before it has begun."""
        self.close()
        self._watch = _RefusedWatch(self.listener, error)

    def _begin(self) -> None:
        self._timer.close()
        self._backend._delayed.pop(self, None)
        self._watch = self._backend.begin_watch(self)


class _RefusedWatch(Watch):
    """A watch that was not possible."""

    def __init__(self, listener: WatchListener, error: EtcException) -> None:
        self._telling = get_hub().loop.run_callback(listener.on_ended, error)

    def close(self) -> None:
        self._telling.stop()
