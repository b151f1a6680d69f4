"""Tenures: who had a kept node when, as etcd's log has it."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.faults.checking.log import Era, Log
from tests.faults.history import REMOVAL, REVOCATION, Change, Claim, Fault, History, Presence, Record

__all__ = ['Keepers', 'Tenure']


@dataclass(frozen=True, slots=True)
class Tenure:
    """One keeper had one node.

    Where all keepers of a node have the same value, the lease of the node tells one tenure from the next, and the
    keeper that claimed the token of one of the writes made them all.

    Attributes:
        era: In which.
        puts: The changes by which it took the node, and wrote it again: at least one.
        end: The change that ended it, which deleted the node or gave it to another; None if there is none in this era.
        keeper: How it was started; None if it was no keeper's, or of none that is known.
        after: The tenure that follows, whoever has it; None if there is none in this era.
    """

    era: Era
    puts: list[Change]
    end: Change | None
    keeper: Presence | None
    after: Tenure | None

    @property
    def began(self) -> float:
        """A time at which it had not begun."""
        return self.era.not_yet_at(self.puts[0].revision)

    @property
    def written(self) -> float:
        """A time at which the node was not yet written for the last time."""
        return self.era.not_yet_at(self.puts[-1].revision)

    @property
    def still(self) -> float:
        """A time at which it had not ended yet."""
        return self.era.wiped if self.end is None else self.era.timeline.not_yet_at(self.end.revision)

    @property
    def over(self) -> float:
        """A time at which it had ended."""
        return self.era.over if self.end is None else self.era.timeline.happened_by(self.end.revision)

    @property
    def witness_of_end(self) -> Record | None:
        """What says that it had ended."""
        return None if self.end is None else self.era.timeline.witness_of(self.end.revision)


@dataclass(slots=True)
class _Told:
    """What one keeper said, and when, in order."""

    lost: list[Presence | Claim] = field(default_factory=list)
    held: list[Presence] = field(default_factory=list)
    stopped: Presence | None = None


class Keepers:
    """The keepers, and the tenures of each node that one was started for.

    Tenures that had ended when a backup was made are those of the era before only.

    Args:
        history: The history.
        log: Its log.
    """

    def __init__(self, history: History, log: Log) -> None:
        self.log = log
        self.by_name = {said.keeper: said for said in history.of(Presence) if said.what == 'started'}
        self._of_value: dict[str, list[Presence]] = defaultdict(list)
        for said in self.by_name.values():
            self._of_value[said.value].append(said)
        self._claims: dict[tuple[str, int], list[Claim]] = defaultdict(list)
        self._told: dict[str, _Told] = defaultdict(_Told)
        self._faults = [fault for fault in history.of(Fault) if fault.name in (REVOCATION, REMOVAL)]
        for record in history:
            if isinstance(record, Presence):
                self._note(record)
            elif isinstance(record, Claim) and record.token is None:
                self._told[record.keeper].lost.append(record)
            elif isinstance(record, Claim) and record.token is not None:
                self._claims[record.key, record.token].append(record)
        keys = sorted({said.key for said in self.by_name.values()})
        self.tenures = [
            tenure
            for era in log.eras
            for key in keys
            for tenure in _tenures(era, era.of_key(key), self._owner)
            if tenure.end is None or not era.has_copy_of(tenure.end)
        ]

    def is_alone_with_its_value(self, keeper: Presence) -> bool:
        """True if the value of a node tells that it is this keeper's."""
        return len(self._of_value[keeper.value]) == 1

    def _owner(self, era: Era, puts: list[Change]) -> Presence | None:
        """The keeper that wrote a node these times, with one value and, where that is not its alone, one lease."""
        candidates = self._of_value.get(puts[0].value or '', [])
        if len(candidates) < 2:
            return next(iter(candidates), None)
        for put in puts:
            for claim in self._claims.get((put.key, put.revision), ()):
                if claim.at >= era.not_yet_at(put.revision):
                    return self.by_name.get(claim.keeper)
        return None

    def _note(self, said: Presence) -> None:
        told = self._told[said.keeper]
        if said.what in ('lost', 'overtaken'):
            told.lost.append(said)
        elif said.what in ('kept', 'restored'):
            told.held.append(said)
        elif said.what == 'stopped':
            told.stopped = said

    def losses(self, keeper: Presence) -> list[Presence | Claim]:
        """Each time that it said that the node is not its own."""
        return self._told[keeper.keeper].lost

    def first_loss(self, keeper: Presence, after: float) -> Presence | Claim | None:
        """The first time that it said so after a time."""
        losses = self.losses(keeper)
        found = bisect_left(losses, after, key=lambda record: record.at)
        return losses[found] if found < len(losses) else None

    def holdings(self, keeper: Presence) -> list[Presence]:
        """Each time that it said that the node is its own."""
        return self._told[keeper.keeper].held

    def stopped(self, keeper: Presence) -> Presence | None:
        """That it was stopped."""
        return self._told[keeper.keeper].stopped

    def had_stopped_before(self, keeper: Presence, time: float) -> bool:
        """True if it had begun to stop by then."""
        stopped = self.stopped(keeper)
        return stopped is not None and stopped.at <= time

    def intervention(self, tenure: Tenure) -> Fault | None:
        """The fault that ended the tenure, if one did: others than the keeper may delete a node."""
        assert tenure.end is not None
        for fault in self._faults:
            targets = {change.lease for change in tenure.puts[-1:]} if fault.name == REVOCATION else {tenure.end.key}
            is_meant = fault.target in map(str, targets) and tenure.end.value is None
            if is_meant and fault.began <= tenure.over and tenure.still <= fault.ended:
                return fault
        return None


def _tenures(
    era: Era, changes: list[Change], owner_of: Callable[[Era, list[Change]], Presence | None]
) -> Iterator[Tenure]:
    """From the last one to the first, so that each knows what follows."""
    after: Tenure | None = None
    for puts, end, owner in reversed(_merged([(*run, owner_of(era, run[0])) for run in _runs(changes)])):
        after = Tenure(era, puts, end, owner, after)
        yield after


Run = tuple[list[Change], Change | None]
"""Writes of one value with one lease, and the change that followed."""


def _runs(changes: list[Change]) -> Iterator[Run]:
    puts: list[Change] = []
    for change in changes:
        if puts and (puts[-1].value, puts[-1].lease) != (change.value, change.lease):
            yield puts, change
            puts = []
        if change.value is not None:
            puts.append(change)
    if puts:
        yield puts, None


def _merged(runs: list[tuple[list[Change], Change | None, Presence | None]]) -> list[
    tuple[list[Change], Change | None, Presence | None]
]:  # fmt: skip
    """One tenure of an owner for its runs that follow each other: it put the node on another lease."""
    merged: list[tuple[list[Change], Change | None, Presence | None]] = []
    for puts, end, owner in runs:
        if merged and owner is not None and merged[-1][1] is puts[0] and merged[-1][2] is owner:
            puts = [*merged.pop()[0], *puts]
        merged.append((puts, end, owner))
    return merged
