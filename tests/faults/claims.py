"""Who has what to himself: faults of one thing come one after the other, those of different things overlap."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import gevent

__all__ = ['Claims']

PAUSE: Final = 0.02


class Claims:
    """Names that are taken by one at a time.

    They are given in the order in which they were asked for: who wants many is not passed over for ever.
    """

    def __init__(self) -> None:
        self._claims: list[frozenset[str]] = []  # those that are held, and those that are waited for

    @contextmanager
    def of(self, names: frozenset[str]) -> Iterator[None]:
        """Have these names alone.  Blocks until whoever asked for one of them before has done with it."""
        self._claims.append(names)
        try:
            while self._is_taken(names):
                gevent.sleep(PAUSE)
            yield
        finally:
            self._claims.remove(names)

    def _is_taken(self, names: frozenset[str]) -> bool:
        for claim in self._claims:
            if claim is names:
                return False
            if claim & names:
                return True
        raise AssertionError('who waits has a claim')
