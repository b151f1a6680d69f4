"""Who has what to himself: faults of one thing come one after the other, those of different things overlap."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from typing import Final

import gevent

__all__ = ['Claims']

PAUSE: Final = 0.02


class Claims:
    """Names that are taken by one at a time.

    They are given in the order in which they were asked for: who wants many is not passed over for ever.
    """

    def __init__(self) -> None:
        self._claims: dict[object, frozenset[str]] = {}  # those that are held, and those that are waited for

    @contextmanager
    def of(self, names: frozenset[str]) -> Iterator[None]:
        """Have these names alone.  Blocks until whoever asked for one of them before has done with it."""
        claim = object()
        self._claims[claim] = names
        try:
            while self._is_taken(claim):
                gevent.sleep(PAUSE)
            yield
        finally:
            del self._claims[claim]

    def _is_taken(self, claim: object) -> bool:
        names = self._claims[claim]
        earlier = takewhile(lambda other: other is not claim, self._claims)
        return any(self._claims[other] & names for other in earlier)
