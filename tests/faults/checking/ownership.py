"""Determines from etcd's log which keeper owned a node when."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.faults.checking.log import Era, Log
from tests.faults.history import REMOVAL, REVOCATION, Change, Fault, History, KeeperEvent, Record, TokenCheck

__all__ = ['KeeperHistory', 'Ownership']


@dataclass(frozen=True, slots=True)
class Ownership:
    """A span of time in which a keeper owned a node.

    If all keepers of a node write the same value, ownerships are separated by the lease of the node, and the keeper is
    the one that returned the revision of one of the writes as its token.

    Attributes:
        era: The era.
        puts: The writes of the keeper: at least one.
        end: The change that ended it: a deletion or a write of another; None if there is none in this era.
        keeper: The start of the keeper; None if it is unknown, or if the node was not written by a keeper.
        next: The next ownership of the node in this era, or None.
    """

    era: Era
    puts: list[Change]
    end: Change | None
    keeper: KeeperEvent | None
    next: Ownership | None

    @property
    def started_after(self) -> float:
        """A time before its first write."""
        return self.era.not_yet_at(self.puts[0].revision)

    @property
    def last_write_after(self) -> float:
        """A time before its last write."""
        return self.era.not_yet_at(self.puts[-1].revision)

    @property
    def last_held(self) -> float:
        """A time before its end."""
        return self.era.exclusive_until if self.end is None else self.era.timeline.not_yet_at(self.end.revision)

    @property
    def ended_by(self) -> float:
        """A time by which it had ended."""
        return self.era.ended if self.end is None else self.era.timeline.happened_by(self.end.revision)

    @property
    def evidence_of_end(self) -> Record | None:
        """The record that shows that it had ended."""
        return None if self.end is None else self.era.timeline.evidence_of(self.end.revision)


@dataclass(slots=True)
class _KeeperEvents:
    """The events of a keeper, in order."""

    losses: list[KeeperEvent | TokenCheck] = field(default_factory=list)
    confirmed: list[KeeperEvent] = field(default_factory=list)
    stopped: KeeperEvent | None = None


class KeeperHistory:
    """The keepers, and the ownerships of each of their nodes.

    Ownerships that had ended before a backup belong to the previous era only.

    Args:
        history: The history.
        log: Its log.
    """

    def __init__(self, history: History, log: Log) -> None:
        self.log = log
        self.by_name = {event.keeper: event for event in history.of(KeeperEvent) if event.kind == 'started'}
        self._of_value: dict[str, list[KeeperEvent]] = defaultdict(list)
        for event in self.by_name.values():
            self._of_value[event.value].append(event)
        self._locks: dict[tuple[str, int], list[TokenCheck]] = defaultdict(list)
        self._events: dict[str, _KeeperEvents] = defaultdict(_KeeperEvents)
        self._faults = [fault for fault in history.of(Fault) if fault.name in (REVOCATION, REMOVAL)]
        for record in history:
            if isinstance(record, KeeperEvent):
                self._add(record)
            elif isinstance(record, TokenCheck) and record.token is None:
                self._events[record.keeper].losses.append(record)
            elif isinstance(record, TokenCheck) and record.token is not None:
                self._locks[record.key, record.token].append(record)
        keys = sorted({event.key for event in self.by_name.values()})
        self.ownerships = [
            ownership
            for era in log.eras
            for key in keys
            for ownership in _ownerships(era, era.of_key(key), self._owner)
            if ownership.end is None or not era.has_copy_of(ownership.end)
        ]

    def is_alone_with_its_value(self, keeper: KeeperEvent) -> bool:
        """Return whether the value of a node identifies the keeper."""
        return len(self._of_value[keeper.value]) == 1

    def _owner(self, era: Era, puts: list[Change]) -> KeeperEvent | None:
        """Return the keeper that made the writes, which have one value and, if that is not unique, one lease."""
        candidates = self._of_value.get(puts[0].value or '', [])
        if len(candidates) < 2:
            return next(iter(candidates), None)
        for put in puts:
            for claim in self._locks.get((put.key, put.revision), ()):
                if claim.at >= era.not_yet_at(put.revision):
                    return self.by_name.get(claim.keeper)
        return None

    def _add(self, event: KeeperEvent) -> None:
        events = self._events[event.keeper]
        if event.kind in ('lost', 'overtaken'):
            events.losses.append(event)
        elif event.kind in ('kept', 'restored'):
            events.confirmed.append(event)
        elif event.kind == 'stopped':
            events.stopped = event

    def losses(self, keeper: KeeperEvent) -> list[KeeperEvent | TokenCheck]:
        """Return all reports of the keeper that it does not own the node."""
        return self._events[keeper.keeper].losses

    def first_loss(self, keeper: KeeperEvent, next: float) -> KeeperEvent | TokenCheck | None:
        """Return the first such report after a time."""
        losses = self.losses(keeper)
        found = bisect_left(losses, next, key=lambda record: record.at)
        return losses[found] if found < len(losses) else None

    def confirmations(self, keeper: KeeperEvent) -> list[KeeperEvent]:
        """Return all reports of the keeper that it owns the node."""
        return self._events[keeper.keeper].confirmed

    def stopped(self, keeper: KeeperEvent) -> KeeperEvent | None:
        """Return the record of its stop."""
        return self._events[keeper.keeper].stopped

    def had_stopped_before(self, keeper: KeeperEvent, time: float) -> bool:
        """Return whether the keeper had been stopped by a time."""
        stopped = self.stopped(keeper)
        return stopped is not None and stopped.at <= time

    def intervention(self, ownership: Ownership) -> Fault | None:
        """Return the fault (a deletion or a revocation) that ended the ownership, or None."""
        assert ownership.end is not None
        for fault in self._faults:
            targets = (
                {change.lease for change in ownership.puts[-1:]} if fault.name == REVOCATION else {ownership.end.key}
            )
            is_match = fault.target in map(str, targets) and ownership.end.value is None
            if is_match and fault.began <= ownership.ended_by and ownership.last_held <= fault.ended:
                return fault
        return None


def _ownerships(
    era: Era, changes: list[Change], owner_of: Callable[[Era, list[Change]], KeeperEvent | None]
) -> Iterator[Ownership]:
    """Yield the ownerships from the last one to the first, because each has a reference to the next one."""
    next: Ownership | None = None
    for puts, end, owner in reversed(_merge([(*run, owner_of(era, run[0])) for run in _split(changes)])):
        next = Ownership(era, puts, end, owner, next)
        yield next


Writes = tuple[list[Change], Change | None]
"""Writes of one value with one lease, and the change after them."""


def _split(changes: list[Change]) -> Iterator[Writes]:
    puts: list[Change] = []
    for change in changes:
        if puts and (puts[-1].value, puts[-1].lease) != (change.value, change.lease):
            yield puts, change
            puts = []
        if change.value is not None:
            puts.append(change)
    if puts:
        yield puts, None


def _merge(runs: list[tuple[list[Change], Change | None, KeeperEvent | None]]) -> list[
    tuple[list[Change], Change | None, KeeperEvent | None]
]:  # fmt: skip
    """Merge successive writes of one owner, which has moved the node to another lease."""
    merged: list[tuple[list[Change], Change | None, KeeperEvent | None]] = []
    for puts, end, owner in runs:
        if merged and owner is not None and merged[-1][1] is puts[0] and merged[-1][2] is owner:
            puts = [*merged.pop()[0], *puts]
        merged.append((puts, end, owner))
    return merged
