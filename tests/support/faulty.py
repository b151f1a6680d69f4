"""A backend that fails on command, in virtual time."""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gevent

from getc import timing
from getc.backends.base import KeepGroup, Watch, WatchListener
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
"""What becomes of an operation that the backend would do by itself."""


def refuse(_operation: Operation, _deadline: Deadline, _do: Do) -> EtcdResult:
    """Nobody listens."""
    raise ConnectionRefused('nobody listens')


def drop(operation: Operation, _deadline: Deadline, _do: Do) -> EtcdResult:
    """The connection breaks before the server has read the request."""
    raise ConnectionError('the connection broke', maybe_applied=operation.is_write)


def lose_reply(operation: Operation, _deadline: Deadline, do: Do) -> EtcdResult:
    """The server does it, and the connection breaks before its answer."""
    do()
    raise ConnectionError('the connection broke', maybe_applied=operation.is_write)


def hang(operation: Operation, deadline: Deadline, _do: Do) -> EtcdResult:
    """The server takes the request and is silent."""
    gevent.sleep(deadline.remaining())
    raise TimedOut('no answer', maybe_applied=operation.is_write)


def late(seconds: float) -> Fault:
    """The server does it after so many seconds, when nobody waits for the answer any more."""

    def fault(operation: Operation, deadline: Deadline, do: Do) -> EtcdResult:
        gevent.spawn_later(seconds, do)
        return hang(operation, deadline, do)

    return fault


def delay(seconds: float) -> Fault:
    """The server does it at once; its answer takes so many seconds."""

    def fault(operation: Operation, deadline: Deadline, do: Do) -> EtcdResult:
        result = do()
        if deadline.remaining() < seconds:
            return hang(operation, deadline, do)
        gevent.sleep(seconds)
        return result

    return fault


class FaultyBackend:
    """A backend on a store in memory.

    Attributes:
        store: Where the nodes are.
        fault: What becomes of each operation; None where all is well.
        faults: For the next operations, one each, before that: None for one that goes through.
        sent: Every operation and when it came.
        watches: How often a watch was asked for.
        leaves_reads: Reads are done whatever the fault.
    """

    api = 'memory'

    def __init__(self) -> None:
        self.store = SharedStore()
        self.fault: Fault | None = None
        self.faults: deque[Fault | None] = deque()
        self.sent: list[tuple[float, Operation]] = []
        self.watches = 0
        self.leaves_reads = False
        self._inner = MemoryBackend(self.store)
        self._groups: dict[int, RefreshGroup] = {}

    def go_down(self, fault: Fault = refuse) -> None:
        """Answer nothing any more, and break the watches."""
        self.fault = fault
        self.break_watches()

    def come_back(self, *, empty: bool = False) -> None:
        """Work again, with the nodes that were there or without any."""
        self.fault = None
        if empty:
            self.break_watches()
            self.store = SharedStore()
            self._inner = MemoryBackend(self.store)

    def break_watches(self) -> None:
        """Every watch loses its connection."""
        for watch in list(self._inner._watches):
            watch.close()
            watch._listener.on_ended(ConnectionError('the connection broke'))

    def times(self, kind: type[Operation]) -> list[float]:
        """When operations of a kind came."""
        return [at for at, operation in self.sent if isinstance(operation, kind)]

    # -- the backend

    def execute(self, operation: Operation, deadline: Deadline) -> EtcdResult:
        self.sent.append((timing.now(), operation))
        inner = self._inner
        if self.leaves_reads and isinstance(operation, Get):
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

    def keep(self, ttl: int) -> KeepGroup:
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
    """This process does not run for a while (SIGSTOP, a blocked hub): what was due meanwhile is due afterwards."""
    clock.stall(seconds)


@contextmanager
def blocking_log() -> Iterator[list[str]]:
    """Have the program's log handler block, as one does whose peer is slow; what was said."""

    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            gevent.sleep(0.3)
            said.append(record.getMessage())

    said: list[str] = []
    handler = Slow()
    logging.getLogger('getc').addHandler(handler)
    try:
        yield said
    finally:
        logging.getLogger('getc').removeHandler(handler)
