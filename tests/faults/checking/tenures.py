"""Tenures: who had a kept node when, as etcd's log has it."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.faults.checking.log import Era, Log
from tests.faults.history import REMOVAL, REVOCATION, Change, Claim, Fault, History, Presence, Record

__all__ = ['Keepers', 'Tenure']


@dataclass(frozen=True, slots=True)
class Tenure:
    """One keeper had one node.

    Attributes:
        era: In which.
        puts: The changes by which it took the node, and wrote it again: at least one.
        end: The change that ended it, which deleted the node or gave it to another; None if there is none in this era.
        keeper: How it was started; None if it was no keeper's.
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
        return self.era.timeline.not_yet_at(self.puts[0].revision)

    @property
    def written(self) -> float:
        """A time at which the node was not yet written for the last time."""
        return self.era.timeline.not_yet_at(self.puts[-1].revision)

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

    Args:
        history: The history.
        log: Its log.
    """

    def __init__(self, history: History, log: Log) -> None:
        self.log = log
        self.started = {said.value: said for said in history.of(Presence) if said.what == 'started'}
        self.by_name = {said.keeper: said for said in self.started.values()}
        self._told: dict[str, _Told] = defaultdict(_Told)
        self._faults = [fault for fault in history.of(Fault) if fault.name in (REVOCATION, REMOVAL)]
        for record in history:
            if isinstance(record, Presence):
                self._note(record)
            elif isinstance(record, Claim) and record.token is None:
                self._told[record.keeper].lost.append(record)
        keys = sorted({said.key for said in self.started.values()})
        self.tenures = [
            tenure for era in log.eras for key in keys for tenure in _tenures(era, era.of_key(key), self.started)
        ]

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


def _tenures(era: Era, changes: list[Change], started: dict[str, Presence]) -> Iterator[Tenure]:
    """From the last one to the first, so that each knows what follows."""
    puts: list[Change] = []
    after: Tenure | None = None
    end: Change | None = None
    for change in reversed(changes):
        if puts and puts[0].value != change.value:
            after = Tenure(era, puts, end, started.get(puts[0].value or ''), after)
            yield after
            end = puts[0] if change.value is not None else None
            puts = []
        if change.value is None:
            end = change
        else:
            puts = [change, *puts]
    if puts:
        yield Tenure(era, puts, end, started.get(puts[0].value or ''), after)
