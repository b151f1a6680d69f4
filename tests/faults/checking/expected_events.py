"""The events that a watcher should receive in an era, and the check of a resync's comparison."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence

from getc.paths import is_below, is_hidden
from tests.faults.checking.log import Era, Log
from tests.faults.history import Change, WatchEvent

__all__ = ['ExpectedEvents', 'ExpectedEventsCache', 'apply', 'difference_error']


class ExpectedEvents:
    """The changes of an era that a watcher of a key receives; each has a position.

    Attributes:
        era: The era.
        changes: In order.
    """

    def __init__(self, era: Era, key: str) -> None:
        self.era = era
        self.changes = [change for change in era.changes if _is_delivered(change.key, key)]
        self._revisions = [change.revision for change in self.changes]
        self._positions = {(change.revision, change.key): position for position, change in enumerate(self.changes)}

    def after(self, revision: int) -> int:
        """Return the position of the first change after a revision."""
        return bisect_right(self._revisions, revision)

    def position_of(self, seen: WatchEvent) -> int | None:
        """Return the position of the change with the key and revision of an event, or None."""
        return self._positions.get((seen.revision, seen.key))

    def has(self, seen: WatchEvent) -> bool:
        """Return whether the event is a change in the log, with the same value."""
        position = self.position_of(seen)
        return position is not None and self.changes[position].value == seen.value

    def state(self, end: int) -> dict[str, Change]:
        """Return the keys and their latest changes before a position."""
        state: dict[str, Change] = {}
        for change in self.changes[:end]:
            apply(state, change)
        return state


class ExpectedEventsCache:
    """The expected events of each key and era, computed once.

    Args:
        log: The log.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._cache: dict[tuple[int, str], ExpectedEvents] = {}

    def of(self, era: Era, key: str) -> ExpectedEvents:
        """Return the expected events of a key in an era."""
        position = era.number, key
        if position not in self._cache:
            self._cache[position] = ExpectedEvents(era, key)
        return self._cache[position]

    def shared(self, expected: ExpectedEvents, later: ExpectedEvents) -> int:
        """Return the last revision whose changes two eras share by restored backups; 0 for none."""
        return min((era.shared for era in self._log.eras[expected.era.number + 1 : later.era.number + 1]), default=0)

    def later(self, expected: ExpectedEvents, key: str) -> list[ExpectedEvents]:
        """Return the expected events of all later eras."""
        return [self.of(era, key) for era in self._log.eras[expected.era.number + 1 :]]


def apply(state: dict[str, Change], change: Change) -> None:
    """Apply a change to the keys."""
    if change.value is None:
        state.pop(change.key, None)
    else:
        state[change.key] = change


def difference_error(
    results: Sequence[WatchEvent], known: Mapping[str, Change] | None, state: Mapping[str, Change]
) -> str | None:
    """Return what is wrong with the results of a resync, or None if they are correct.

    A node that was only moved to another lease is unchanged: a result for it is optional.

    Args:
        results: The results that were delivered.
        known: The keys that had been delivered before; None if unknown.
        state: The keys in etcd.
    """
    keys = [result.key for result in results]
    if keys != sorted(set(keys)):
        return f'the keys are not in order: {keys}'
    for result in results:
        change = state.get(result.key)
        if (None if change is None else change.value) != result.value:
            return f'{result.key} is {None if change is None else change.value!r}, not {result.value!r}'
        if change is not None and change.revision != result.revision:
            return f'{result.key} was changed at revision {change.revision}, not at {result.revision}'
        if known is not None and _version(known.get(result.key)) == _version(change):
            return f'{result.key} is unchanged, but has a result'
    if known is not None:
        for key in sorted({*state, *known} - set(keys)):
            if _identity(state.get(key)) != _identity(known.get(key)):
                return f'{key} is different, but has no result'
    return None


def _is_delivered(key: str, watched: str) -> bool:
    return key == watched or (is_below(key, watched) and not is_hidden(key, watched))


def _version(change: Change | None) -> tuple[int, str | None] | None:
    return None if change is None else (change.revision, change.value)


def _identity(change: Change | None) -> tuple[int, str | None] | None:
    return None if change is None else (change.created, change.value)
