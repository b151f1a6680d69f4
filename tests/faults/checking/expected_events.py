"""What a watcher should be told of one era, and whether the difference that it was told instead is right."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence

from getc.paths import is_below, is_hidden
from tests.faults.checking.log import Era, Log
from tests.faults.history import Change, Seen

__all__ = ['Route', 'Routes', 'fault_of_difference', 'take']


class Route:
    """The changes of one era that are told below one key, each of which has a place in it.

    Attributes:
        era: The era.
        changes: In order.
    """

    def __init__(self, era: Era, key: str) -> None:
        self.era = era
        self.changes = [change for change in era.changes if _is_told(change.key, key)]
        self._revisions = [change.revision for change in self.changes]
        self._places = {(change.revision, change.key): place for place, change in enumerate(self.changes)}

    def after(self, revision: int) -> int:
        """The place of the first change after a revision."""
        return bisect_right(self._revisions, revision)

    def place_of(self, seen: Seen) -> int | None:
        """The place of the change of that key in that revision, if there is one."""
        return self._places.get((seen.revision, seen.key))

    def has(self, seen: Seen) -> bool:
        """True if just that is what happened."""
        place = self.place_of(seen)
        return place is not None and self.changes[place].value == seen.value

    def state(self, end: int) -> dict[str, Change]:
        """What is there before a place."""
        there: dict[str, Change] = {}
        for change in self.changes[:end]:
            take(there, change)
        return there


class Routes:
    """The routes below one key, era by era; each is made once.

    Args:
        log: The log.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._routes: dict[tuple[int, str], Route] = {}

    def of(self, era: Era, key: str) -> Route:
        """That of one era."""
        place = era.number, key
        if place not in self._routes:
            self._routes[place] = Route(era, key)
        return self._routes[place]

    def shared(self, route: Route, later: Route) -> int:
        """The revision up to which the changes of two eras are the same, as they came with backups; 0 for none."""
        return min((era.shared for era in self._log.eras[route.era.number + 1 : later.era.number + 1]), default=0)

    def following(self, route: Route, key: str) -> list[Route]:
        """Those of the eras after it."""
        return [self.of(era, key) for era in self._log.eras[route.era.number + 1 :]]


def take(there: dict[str, Change], change: Change) -> None:
    """Have a change change what is there."""
    if change.value is None:
        there.pop(change.key, None)
    else:
        there[change.key] = change


def fault_of_difference(
    results: Sequence[Seen], known: Mapping[str, Change] | None, there: Mapping[str, Change]
) -> str | None:
    """Say what is wrong with a difference; None if it leads from what was known to what is there.

    A node that was only put on another lease meanwhile is the same: it may be told or not.

    Args:
        results: The difference that was told.
        known: What had been told before, by key; None if nobody knows.
        there: What is there, by key.
    """
    keys = [result.key for result in results]
    if keys != sorted(set(keys)):
        return f'the keys are not in order: {keys}'
    for result in results:
        change = there.get(result.key)
        if (None if change is None else change.value) != result.value:
            return f'{result.key} is {None if change is None else change.value!r} and not {result.value!r}'
        if change is not None and change.revision != result.revision:
            return f'{result.key} was changed at revision {change.revision} and not at {result.revision}'
        if known is not None and _version(known.get(result.key)) == _version(change):
            return f'{result.key} is as it was, and was told'
    if known is not None:
        for key in sorted({*there, *known} - set(keys)):
            if _identity(there.get(key)) != _identity(known.get(key)):
                return f'{key} is different, and was not told'
    return None


def _is_told(key: str, watched: str) -> bool:
    return key == watched or (is_below(key, watched) and not is_hidden(key, watched))


def _version(change: Change | None) -> tuple[int, str | None] | None:
    return None if change is None else (change.revision, change.value)


def _identity(change: Change | None) -> tuple[int, str | None] | None:
    return None if change is None else (change.created, change.value)
