"""A memory backend with injected faults, in virtual time."""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gevent

from getc import timing
from getc.backends.base import Backend, KeepGroup, Watch, WatchListener
from getc.backends.memory.backend import MemoryBackend
from getc.backends.memory.notifier import SharedStore
from getc.backends.refresh import RefreshGroup
from getc.errors import ConnectionError, ConnectionRefused, TimedOut
from getc.operations import Get, Operation, WatchSpec
from getc.results import EtcdResult
from getc.testing import VirtualTime
from getc.timing import Deadline

__all__ = [
    'Fault',
    'FaultyBackend',
    'blocking_log',
    'delay',
    'drop',
    'hang',
    'late',
    'lose_reply',
    'refuse',
    'stall',
]

Do = Callable[[], EtcdResult]
Fault = Callable[[Operation, Deadline, Do], EtcdResult]
"""Executes or fails an operation, given the deadline and the backend's work as a function."""


def refuse(_operation: Operation, _deadline: Deadline, _do: Do) -> EtcdResult:
    """The connection is refused."""
    raise ConnectionRefused('connection refused')


def drop(operation: Operation, _deadline: Deadline, _do: Do) -> EtcdResult:
    """The connection breaks before the server has read the request."""
    raise ConnectionError('the connection broke', maybe_applied=operation.is_write)


def lose_reply(operation: Operation, _deadline: Deadline, do: Do) -> EtcdResult:
    """The server executes the operation, and the connection breaks before the response."""
    do()
    raise ConnectionError('the connection broke', maybe_applied=operation.is_write)


def hang(operation: Operation, deadline: Deadline, _do: Do) -> EtcdResult:
    """The server accepts the request and does not respond."""
    gevent.sleep(deadline.remaining())
    raise TimedOut('no answer', maybe_applied=operation.is_write)


def late(seconds: float) -> Fault:
    """The server executes the operation after a number of seconds, when the client has given up."""

    def fault(operation: Operation, deadline: Deadline, do: Do) -> EtcdResult:
        gevent.spawn_later(seconds, do)
        return hang(operation, deadline, do)

    return fault


def delay(seconds: float) -> Fault:
    """The server executes the operation at once; its response takes a number of seconds."""

    def fault(operation: Operation, deadline: Deadline, do: Do) -> EtcdResult:
        result = do()
        if deadline.remaining() < seconds:
            return hang(operation, deadline, do)
        gevent.sleep(seconds)
        return result

    return fault


class FaultyBackend(Backend):
    """A backend on a memory store.

    Attributes:
        store: The store with the nodes.
        fault: Applied to each operation; None for no fault.
        faults: Faults for the next operations, one each, which precede ``fault``; None for no fault.
        sent: Time and operation of each request.
        watches: The number of watches that were requested.
        leaves_reads: Reads are executed without a fault.
    """

    api = 'memory'

    def __init__(self) -> None:
        self.store = SharedStore()
        self.fault: Fault | None = None
        self.faults: deque[Fault | None] = deque()
        self.sent: list[tuple[float, Operation]] = []
        self.watches = 0
        self.spares_reads = False
        self._inner = MemoryBackend(self.store)
        self._groups: dict[int, RefreshGroup] = {}

    def go_down(self, fault: Fault = refuse) -> None:
        """Fail every operation, and break the watches."""
        self.fault = fault
        self.break_watches()

    def recover(self, *, empty: bool = False) -> None:
        """Respond again, with the same nodes or with an empty store."""
        self.fault = None
        if empty:
            self.break_watches()
            self.store = SharedStore()
            self._inner = MemoryBackend(self.store)

    def break_watches(self) -> None:
        """Break the connections of all watches."""
        for watch in list(self._inner._watches):
            watch.close()
            watch.listener.on_ended(ConnectionError('the connection broke'))

    def times(self, kind: type[Operation]) -> list[float]:
        """Return the times of the operations of a class."""
        return [at for at, operation in self.sent if isinstance(operation, kind)]

    # -- the backend

    def execute(self, operation: Operation, deadline: Deadline) -> EtcdResult:
        self.sent.append((timing.now(), operation))
        inner = self._inner
        if self.spares_reads and isinstance(operation, Get):
            return inner.execute(operation, deadline)
        fault = self.faults.popleft() if self.faults else self.fault
        if fault is None:
            return inner.execute(operation, deadline)
        return fault(operation, deadline, lambda: inner.execute(operation, deadline))

    def watch(self, spec: WatchSpec, listener: WatchListener, after: Watch | None = None) -> Watch:
        self.watches += 1
        if self.fault is not None:
            gevent.get_hub().loop.run_callback(self.break_watches)
        return self._inner.watch(spec, listener, after)

    def keep_group(self, ttl: int) -> KeepGroup:
        return self._groups.setdefault(ttl, RefreshGroup(self.execute, self.watch, ttl, max_watched=sys.maxsize))

    def ready(self, deadline: Deadline) -> None:
        self.execute(Get('/'), deadline)

    def clear(self) -> None:
        pass

    def close(self) -> None:
        for group in self._groups.values():
            group.close()
        self._inner.close()


def stall(clock: VirtualTime, seconds: float) -> None:
    """Simulate a process that is not running for some time (SIGSTOP, a blocked hub): timers fire late."""
    clock.stall(seconds)


@contextmanager
def blocking_log() -> Iterator[list[str]]:
    """Install a log handler that blocks, as one with a slow peer does; yields the logged messages."""

    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            gevent.sleep(0.3)
            messages.append(record.getMessage())

    messages: list[str] = []
    handler = Slow()
    logging.getLogger('getc').addHandler(handler)
    try:
        yield messages
    finally:
        logging.getLogger('getc').removeHandler(handler)
