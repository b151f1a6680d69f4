"""What every slice of work has in common, whatever the client is like.

The keyword of all functions here is fairness: keys, checks and clocks are the same for everybody.
"""

from __future__ import annotations

import gc
import os
import time
from typing import Any

__all__ = [
    'CROWDS',
    'SETTLE',
    'Answer',
    'Request',
    'Tally',
    'Watching',
    'check',
    'held_keys',
    'key_of',
    'method_of',
    'resident',
]

Request = dict[str, Any]
Answer = dict[str, float]

CROWDS = ('keepers', 'watchers', 'directory')
"""Work that only getc does: thousands of daemons, and of nodes."""

SETTLE = 1.0
"""Seconds given to watches that were just begun, before memory is read."""


def key_of(size: int, worker: int) -> str:
    """A key for each worker and each size, so that no slice finds the value of another size."""
    return f'/bench/{size}/{worker}'


def held_keys(count: int) -> tuple[list[str], list[str]]:
    """Keys whose watches are weighed, after those of others have filled what memory was left over."""
    keys = [f'/bench/held/{number}' for number in range(count + count // 2)]
    return keys[count:], keys[:count]


def method_of(client: Any, request: Request) -> Any:
    """The method that does the work: ``tree_get`` and ``tree_set`` of a client that has them, else its plain ones."""
    work = request['work']
    return getattr(client, work.replace('-', '_'), None) or getattr(client, work.removeprefix('tree-'))


def check(value: Any, size: int) -> None:
    """Fail unless it is a value of that size: a client that answers fast and wrong must not win."""
    if value is None or len(value) != size:
        raise ValueError(f'got {str(value)[:40]!r} where a value of size {size} was set')


def resident() -> int:
    """Bytes of memory that this process holds now."""
    gc.collect()
    with open('/proc/self/statm') as file:  # Linux; elsewhere memory is not measured
        return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')


class Tally:
    """What the workers of one slice did together, and an error if any met one.

    Attributes:
        end: When they are to stop, by ``time.perf_counter``.
    """

    def __init__(self, seconds: float) -> None:
        self._done: list[int] = []
        self.error: BaseException | None = None
        self._begin = time.perf_counter()
        self.end = self._begin + seconds

    def add(self, operations: int) -> None:
        """Count operations of one worker.  Safe from any thread."""
        self._done.append(operations)

    def answer(self) -> Answer:
        """The answer to the request, once all have stopped.  Raises an error if any of them met one."""
        if self.error is not None:
            raise self.error
        return {'operations': sum(self._done), 'seconds': time.perf_counter() - self._begin}


class Watching:
    """Counts events and knows when there are enough.  The time runs from the request for them."""

    def __init__(self, request: Request) -> None:
        self._count: int = request['count']
        self._total = self._count * request['times']
        self._seen = 0
        self._begin = time.perf_counter()

    def is_last(self) -> bool:
        """Count one more event; True if no more are wanted of this watch."""
        self._seen += 1
        return self._seen % self._count == 0

    def answer(self) -> Answer:
        """The answer to the request.

        Raises:
            ValueError: The client stopped telling events before the last.
        """
        if self._seen != self._total:
            raise ValueError(f'{self._seen} events of {self._total}, and no more')
        return {'operations': self._seen, 'seconds': time.perf_counter() - self._begin}
