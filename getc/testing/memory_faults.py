"""Faults between a client and a store in memory."""

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
from getc.operations import Get, WatchSpec
from getc.timing import Deadline
from getc.transactions import AnyOperation

__all__ = ['Faults', 'LinkedBackend']

Execute = Callable[[], Any]


class Faults:
    """A connection to the store whose faults can be switched at any time.

    Faults apply to all calls: those of the test and those of daemons, whose renewals are calls as well.
    """

    def __init__(self) -> None:
        self._is_connected = True
        self._delay = 0.0
        self._failures: deque[EtcException] = deque()
        self._replies_to_lose = 0
        self._backends: dict[LinkedBackend, None] = {}  # in the order of their creation

    @property
    def is_connected(self) -> bool:
        """False between :meth:`disconnect` and :meth:`connect`."""
        return self._is_connected

    def disconnect(self) -> None:
        """Break all connections and refuse new ones, until :meth:`connect`.

        New calls raise :class:`~getc.ConnectionRefused`.  Calls in flight raise :class:`~getc.ConnectionError`, with
        ``maybe_applied`` if they are writes.  Watches end, and renewals fail.
        """
        self._is_connected = False
        self._break_connections('the connection broke')

    def connect(self) -> None:
        """Accept connections again.  Does nothing if they are accepted already."""
        self._is_connected = True

    def fail_next(self, error: EtcException) -> None:
        """Let the next call raise the error without any effect.  Further calls of this method queue more errors.

        Raises:
            TypeError: The error is not a ``getc.EtcException``, so no client would raise it.
        """
        if not isinstance(error, EtcException):
            raise TypeError(f'error must be a getc.EtcException, not {error!r}')
        self._failures.append(error)

    def lose_next_reply(self) -> None:
        """Execute the next write and lose its reply: the call raises ConnectionError with ``maybe_applied``."""
        self._replies_to_lose += 1

    def delay(self, seconds: float) -> None:
        """Delay the reply of each call from now on; the store executes the call at once.

        A call whose timeout is shorter raises :class:`~getc.TimedOut`, with ``maybe_applied`` if it is a write.  A new
        watch starts after the delay; a watch that has started is not delayed.

        Args:
            seconds: The delay; 0 for none, ``math.inf`` for a store that never replies.

        Raises:
            ValueError: The delay is negative or not a number.
        """
        if not seconds >= 0:
            raise ValueError(f'the delay must be at least 0 s, not {seconds}')
        self._delay = seconds

    def _check_connected(self) -> None:
        if not self._is_connected:
            raise ConnectionRefused('the store is disconnected')

    def _run(self, call: _Call, execute: Execute) -> Any:
        """Execute a call under the faults of this connection."""
        self._check_connected()
        if self._failures:
            raise self._failures.popleft()
        try:
            result = execute()
        except EtcException:
            self._deliver_reply(call)
            raise
        self._deliver_reply(call)
        return result

    def _deliver_reply(self, call: _Call) -> None:
        """Delay or lose the reply of a call, which may be an error."""
        if call.operation.is_write and self._replies_to_lose:
            self._replies_to_lose -= 1
            raise ConnectionError('the reply was lost', maybe_applied=True)
        if self._delay:
            call.wait(self._delay)

    def _break_connections(self, reason: str) -> None:
        for backend in list(self._backends):
            backend.fail_with(reason)


class LinkedBackend(MemoryBackend):
    """A backend whose calls pass connections with faults.

    Args:
        store: The store.
        links: The connections that a call passes, from the client to the store.
    """

    def __init__(self, store: SharedStore, links: Sequence[Faults]) -> None:
        super().__init__(store)
        self._links = links
        self._calls: dict[_Call, None] = {}  # in flight
        self._delayed: dict[_DelayedWatch, None] = {}
        for link in links:
            link._backends[self] = None

    def execute(self, operation: AnyOperation, deadline: Deadline) -> Any:
        self._check_open()
        call = _Call(operation, deadline)
        execute: Execute = partial(super().execute, operation, deadline)
        for link in reversed(self._links):
            execute = partial(link._run, call, execute)
        self._calls[call] = None
        try:
            return execute()
        finally:
            del self._calls[call]

    def watch(self, spec: WatchSpec, listener: WatchListener, after: Watch | None = None) -> Watch:
        self._check_open()
        try:
            for link in self._links:
                link._check_connected()
        except ConnectionRefused as error:
            return _RefusedWatch(listener, error)
        delay = sum(link._delay for link in self._links)
        return _DelayedWatch(self, spec, listener, delay) if delay else super().watch(spec, listener, after)

    def start_watch(self, delayed: _DelayedWatch) -> Watch:
        """Start a delayed watch."""
        return super().watch(delayed.spec, delayed.listener)

    def ready(self, deadline: Deadline) -> None:
        self.execute(Get('/'), deadline)

    def fail_with(self, reason: str) -> None:
        """End every watch and every call in flight with a ConnectionError."""
        self.end_watches(ConnectionError(reason))
        for delayed in list(self._delayed):
            delayed.fail_with(ConnectionError(reason))
        for call in self._calls:
            call.fail_with(ConnectionError(reason, maybe_applied=call.operation.is_write))

    def close(self) -> None:
        super().close()
        for link in self._links:
            link._backends.pop(self, None)
        for delayed in list(self._delayed):
            delayed.close()
        for call in self._calls:
            call.fail_with(ClientClosed('the client was closed', maybe_applied=call.operation.is_write))


class _Call:
    """A call in flight."""

    def __init__(self, operation: AnyOperation, deadline: Deadline) -> None:
        self.operation = operation
        self._deadline = deadline
        self._error: AsyncResult[EtcException] = AsyncResult()

    def wait(self, seconds: float) -> None:
        """Wait for the delay of the reply.

        Raises:
            TimedOut: The deadline of the call came first.
            EtcException: :meth:`fail_with` came first.
        """
        remaining = self._deadline.remaining()
        wait_time = min(seconds, remaining)
        error = self._error.wait(None if wait_time == math.inf else wait_time)
        if error is not None:
            raise error
        if seconds > remaining:
            raise TimedOut(f'no reply within {self._deadline.timeout:g} s', maybe_applied=self.operation.is_write)

    def fail_with(self, error: EtcException) -> None:
        """End the call with the error if it still waits."""
        self._error.set(error)


class _DelayedWatch(Watch):
    """A watch that starts after a delay.

    Attributes:
        spec: What to watch.
        listener: Receives the events.
    """

    def __init__(self, backend: LinkedBackend, spec: WatchSpec, listener: WatchListener, seconds: float) -> None:
        self.spec = spec
        self.listener = listener
        self._backend = backend
        self._watch: Watch | None = None
        backend._delayed[self] = None
        self._timer: Any = get_hub().loop.timer(0.0 if seconds == math.inf else seconds)
        if seconds != math.inf:
            self._timer.start(self._start)

    def request_progress(self, index: int, on_progress: Callable[[int], object]) -> None:
        if self._watch is not None:
            self._watch.request_progress(index, on_progress)

    def close(self) -> None:
        self._timer.close()
        self._backend._delayed.pop(self, None)
        if self._watch is not None:
            self._watch.close()

    def fail_with(self, error: EtcException) -> None:
        """End the watch before it has started."""
        self.close()
        self._watch = _RefusedWatch(self.listener, error)

    def _start(self) -> None:
        self._timer.close()
        self._backend._delayed.pop(self, None)
        self._watch = self._backend.start_watch(self)


class _RefusedWatch(Watch):
    """A watch that could not start.  Calls ``on_ended`` on the next turn of the hub."""

    def __init__(self, listener: WatchListener, error: EtcException) -> None:
        self._callback = get_hub().loop.run_callback(listener.on_ended, error)

    def request_progress(self, index: int, on_progress: Callable[[int], object]) -> None:
        pass

    def close(self) -> None:
        self._callback.stop()
