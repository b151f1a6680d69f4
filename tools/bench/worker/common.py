"""Keys, checks and clocks, which are the same for all clients."""

from __future__ import annotations

import gc
import os
import time
from typing import Any

__all__ = [
    'SCALE_WORKS',
    'SETTLE_TIME',
    'Answer',
    'EventCounter',
    'Request',
    'Tally',
    'check',
    'key_of',
    'resident_bytes',
    'select_method',
    'watch_keys',
]

Request = dict[str, Any]
Answer = dict[str, float]

SCALE_WORKS = ('keepers', 'watchers', 'directory')
"""Work that only getc supports: thousands of daemons and nodes."""

SETTLE_TIME = 1.0
"""Seconds for new watches to settle before memory is measured."""


def key_of(size: int, worker: int) -> str:
    """Return the key of a worker for values of this size."""
    return f'/bench/{size}/{worker}'


def watch_keys(count: int) -> tuple[list[str], list[str]]:
    """Return keys of watches that fill free memory of the process, and keys of watches that are measured."""
    keys = [f'/bench/held/{number}' for number in range(count + count // 2)]
    return keys[count:], keys[:count]


def select_method(client: Any, request: Request) -> Any:
    """Return the method for the work: ``tree_get`` or ``tree_set`` if the client has it, else ``get`` or ``set``."""
    work = request['work']
    return getattr(client, work.replace('-', '_'), None) or getattr(client, work.removeprefix('tree-'))


def check(value: Any, size: int) -> None:
    """Raise ValueError unless the value has this size, so that a client cannot be fast by returning wrong values."""
    if value is None or len(value) != size:
        raise ValueError(f'got {str(value)[:40]!r} where a value of size {size} was set')


def resident_bytes() -> int:
    """Return the resident memory of this process, in bytes."""
    gc.collect()
    with open('/proc/self/statm') as file:  # Linux; elsewhere memory is not measured
        return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')


class Tally:
    """Counts the operations of all workers in one slice.

    Attributes:
        error: An error of a worker; None if there was none.
        end: When the workers have to stop, by ``time.perf_counter``.
    """

    def __init__(self, seconds: float) -> None:
        self._done: list[int] = []
        self.error: BaseException | None = None
        self._begin = time.perf_counter()
        self.end = self._begin + seconds

    def add(self, operations: int) -> None:
        """Add the operations of one worker.  Thread-safe."""
        self._done.append(operations)

    def answer(self) -> Answer:
        """Return the answer to the request once all workers have stopped.  Raises the error of a worker."""
        if self.error is not None:
            raise self.error
        return {'operations': sum(self._done), 'seconds': time.perf_counter() - self._begin}


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
