"""Keys, checks and clocks, which are the same for all clients."""

from __future__ import annotations

import gc
import itertools
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

__all__ = [
    'CALL_WORKS',
    'SCALE_WORKS',
    'SETTLE_TIME',
    'Answer',
    'EventCounter',
    'Request',
    'Tally',
    'calls_of',
    'check',
    'key_of',
    'lock_name_of',
    'percentiles',
    'resident_bytes',
    'watch_keys',
]

Request = dict[str, Any]
Answer = dict[str, Any]

CALL_WORKS = ('get', 'set', 'tree-get', 'tree-set', 'lock')
"""Work that repeats one call."""

SCALE_WORKS = ('keepers', 'watchers', 'directory')
"""Work of few clients: thousands of daemons and nodes."""

SETTLE_TIME = 1.0
"""Seconds for new watches to settle before memory is measured."""


def key_of(size: int, worker: int) -> str:
    """Return the key of a worker for values of this size."""
    return f'/bench/{size}/{worker}'


def watch_keys(count: int) -> tuple[list[str], list[str]]:
    """Return keys of watches that fill free memory of the process, and keys of watches that are measured."""
    keys = [f'/bench/held/{number}' for number in range(count + count // 2)]
    return keys[count:], keys[:count]


def lock_name_of(worker: int) -> str:
    """Return the name of the lock of a worker."""
    return f'/bench/lock/{worker}'


def calls_of(client: Any, request: Request) -> list[Callable[[], Any]]:
    """Return the call of each worker.

    ``tree-get`` and ``tree-set`` are the methods ``tree_get`` and ``tree_set`` if the client has them, else ``get`` and
    ``set``.  ``lock`` acquires and releases a lock of its own.

    Raises:
        NotImplementedError: The client has no locks.
    """
    work, workers = request['work'], range(request['in_flight'])
    method = getattr(client, work.replace('-', '_'), None) or getattr(client, work.removeprefix('tree-'), None)
    if method is None:
        raise NotImplementedError(f'it has no {work}s')
    if work == 'lock':
        return [partial(method, lock_name_of(worker)) for worker in workers]
    size = request['size']
    value = ('x' * size,) if work.endswith('set') else ()
    return [partial(method, key_of(size, worker), *value) for worker in workers]


def check(value: Any, size: int) -> None:
    """Raise ValueError unless the value has this size, so that a client cannot be fast by returning wrong values."""
    if value is None or len(value) != size:
        raise ValueError(f'got {str(value)[:40]!r} where a value of size {size} was set')


def resident_bytes() -> int:
    """Return the resident memory of this process, in bytes."""
    gc.collect()
    with open('/proc/self/statm') as file:  # Linux; elsewhere memory is not measured
        return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')


def percentiles(laps: list[list[float]]) -> Answer:
    """Return the median and the 99th percentile of the seconds of all operations."""
    ordered = sorted(itertools.chain.from_iterable(laps))
    return {'p50': ordered[len(ordered) // 2], 'p99': ordered[len(ordered) * 99 // 100]}


class Tally:
    """Counts the operations of all workers in one slice.

    Attributes:
        error: An error of a worker; None if there was none.
        end: When the workers have to stop, by ``time.perf_counter``.
    """

    def __init__(self, seconds: float) -> None:
        self._laps: list[list[float]] = []
        self.error: BaseException | None = None
        self._begin = time.perf_counter()
        self.end = self._begin + seconds

    def add(self, laps: list[float]) -> None:
        """Add the operations of one worker, each by its seconds.  Thread-safe."""
        self._laps.append(laps)

    def answer(self) -> Answer:
        """Return the answer to the request once all workers have stopped.  Raises the error of a worker.

        ``laps`` has the seconds of each operation: ``__main__.py`` replaces them by their percentiles once the CPU time
        was read, which must not include the sorting.
        """
        seconds = time.perf_counter() - self._begin
        if self.error is not None:
            raise self.error
        return {'operations': sum(map(len, self._laps)), 'seconds': seconds, 'laps': self._laps}


class EventCounter:
    """Counts the events of a watch, and measures the time since its creation."""

    def __init__(self, request: Request) -> None:
        self._count: int = request['count']
        self._total = self._count * request['times']
        self._seen = 0
        self._begin = time.perf_counter()

    def is_last(self) -> bool:
        """Count one event; return True if it is the last one of a replay."""
        self._seen += 1
        return self._seen % self._count == 0

    def answer(self) -> Answer:
        """Return the answer to the request.

        Raises:
            ValueError: The watch ended before the last event.
        """
        if self._seen != self._total:
            raise ValueError(f'the watch ended after {self._seen} of {self._total} events')
        return {'operations': self._seen, 'seconds': time.perf_counter() - self._begin}
