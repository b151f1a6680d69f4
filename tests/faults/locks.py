"""Locks for faults: faults with the same target are injected one after another, others at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from typing import Final

import gevent

__all__ = ['Locks']

POLL_INTERVAL: Final = 0.02


class Locks:
    """Named locks, several of which can be acquired at once.

    Requests are served in order, so a request for many names is not starved.
    """

    def __init__(self) -> None:
        self._requests: dict[object, frozenset[str]] = {}  # those that hold their locks, and those that wait

    @contextmanager
    def acquire(self, names: frozenset[str]) -> Iterator[None]:
        """Hold all of these locks.  Blocks until each earlier request for one of them is released."""
        request = object()
        self._requests[request] = names
        try:
            while self._is_blocked(request):
                gevent.sleep(POLL_INTERVAL)
            yield
        finally:
            del self._requests[request]

    def _is_blocked(self, request: object) -> bool:
        names = self._requests[request]
        earlier = takewhile(lambda other: other is not request, self._requests)
        return any(self._requests[other] & names for other in earlier)
