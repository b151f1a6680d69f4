"""etcd's log by eras: the keys at each revision, and when each revision happened.

Records have a time, but not always an era.  A wipe takes time: what was in flight meanwhile may belong to the era
before or to the one after it; everything else belongs to one era.

After the restore of a backup the next era begins with a copy of the changes of the previous era up to some revision.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from weakref import WeakKeyDictionary

from tests.faults.checking.timeline import RevisionSample, Timeline
from tests.faults.checking.violation import Violation
from tests.faults.history import COMPACTION, RESTORE, WIPE, Call, Change, Fault, History, Probe, TokenCheck, WatchEvent

__all__ = ['Era', 'Log', 'check_log', 'log_of']

COMPLETE = "etcd's log is complete, and its wipes and compactions are recorded."


class Era:
    """The log between two wipes or restores.

    Attributes:
        number: Counts from 0.
        before: The previous era; None for the first one.
        shared: Changes up to this revision are copies from the previous era; 0 for none.
        began: When the wipe before it began: the era did not exist before.
        exclusive_from: When that wipe ended: the previous era answered nothing after this time.
        exclusive_until: When the next wipe began.
        ended: When the next wipe had ended.
        changes: In order.
        last: The last revision.
        timeline: When the revisions happened.
    """

    def __init__(
        self, number: int, changes: list[Change], begin: Fault | None, end: Fault | None, before: Era | None
    ) -> None:
        self.number = number
        self.before = before
        self.began, self.exclusive_from = (0.0, 0.0) if begin is None else (begin.began, begin.ended)
        self.exclusive_until, self.ended = (math.inf, math.inf) if end is None else (end.began, end.ended)
        self.changes = sorted(changes, key=_position)
        self.shared = 0
        if begin is not None and begin.name == RESTORE and before is not None:
            assert begin.revision is not None
            self._add_backup(before.changes, begin.revision)
        self.last = self.changes[-1].revision if self.changes else 1
        self._of_key: dict[str, list[Change]] = defaultdict(list)
        for change in self.changes:
            self._of_key[change.key].append(change)
        self._at = {(change.revision, change.key): change for change in self.changes}
        self._of_value: dict[str, list[Change]] = defaultdict(list)
        for change in self.changes:
            if change.value is not None:
                self._of_value[change.value].append(change)
        self.timeline = Timeline((), self.began)

    def _add_backup(self, previous_revision: Sequence[Change], certain: int) -> None:
        """Add the changes of the previous era that the backup has.

        It has those up to the certain revision, which were not read again, and may have later ones: up to the first
        difference.
        """
        later = [change for change in previous_revision if change.revision > certain]
        different = next(
            (
                min(old.revision, new.revision)
                for old, new in zip(later, self.changes, strict=False)
                if replace(old, era=self.number) != new
            ),
            math.inf,
        )
        both = [change.revision for change in self.changes[: len(later)] if change.revision < different]
        self.shared = max([certain, *both])
        copies = [replace(change, era=self.number) for change in previous_revision if change.revision <= certain]
        self.changes = [*copies, *self.changes]

    def not_yet_at(self, revision: int) -> float:
        """Return the latest time at which a revision had certainly not happened, also in a previous era."""
        if self.before is not None and revision <= self.shared:
            return self.before.not_yet_at(revision)
        return self.timeline.not_yet_at(revision)

    def has_copy_of(self, change: Change) -> bool:
        """Return whether a change comes from the previous era by a backup."""
        return change.revision <= self.shared

    def of_key(self, key: str) -> list[Change]:
        """Return the changes of a key, in order."""
        return self._of_key.get(key, [])

    def of_value(self, value: str) -> list[Change]:
        """Return the changes that wrote a value, in order."""
        return self._of_value.get(value, [])

    def at(self, revision: int, key: str) -> Change | None:
        """Return the change of a key in a revision."""
        return self._at.get((revision, key))

    def state(self, key: str, revision: int) -> Change | None:
        """Return the latest change of a key at a revision; None if the key did not exist."""
        changes = self.of_key(key)
        found = bisect_right(changes, revision, key=lambda change: change.revision)
        return changes[found - 1] if found and changes[found - 1].value is not None else None

    def may_answer(self, began: float, ended: float) -> bool:
        """Return whether a request in a span of time may have been served by this era."""
        return ended >= self.began and began <= self.ended

    def answers_only(self, began: float, ended: float) -> bool:
        """Return whether a request in a span of time can have been served by this era only."""
        return began >= self.exclusive_from and ended <= self.exclusive_until


class Log:
    """All eras.

    Attributes:
        eras: In order; at least one.
        compactions: The compactions.
    """

    def __init__(self, history: History) -> None:
        faults = history.of(Fault)
        ends = sorted((fault for fault in faults if fault.name in (WIPE, RESTORE)), key=lambda fault: fault.began)
        self.compactions = [fault for fault in faults if fault.name == COMPACTION]
        changes: dict[int, list[Change]] = defaultdict(list)
        for change in history.of(Change):
            changes[change.era].append(change)
        self.eras: list[Era] = []
        before = None
        for number, (begin, end) in enumerate(pairwise([None, *ends, None])):
            before = Era(number, changes[number], begin, end, before)
            self.eras.append(before)
        answers: dict[Era, list[RevisionSample]] = defaultdict(list)
        for era, answer in _answers(history, self.eras):
            answers[era].append(answer)
        for era in self.eras:
            era.timeline = Timeline(answers[era], era.began)

    def eras_of(self, began: float, ended: float) -> list[Era]:
        """Return the eras that may have served a request in a span of time."""
        return [era for era in self.eras if era.may_answer(began, ended)]

    def compaction_beyond(self, era: Era, revision: int, time: float) -> int | None:
        """Return the smallest revision above one up to which an era may have been compacted by a time."""
        compacted = (
            fault.revision
            for fault in self.compactions
            if fault.revision is not None and fault.began <= time and era.may_answer(fault.began, fault.ended)
        )
        return min((up_to for up_to in compacted if up_to > revision), default=None)

    def has_lost(self, began: float, ended: float) -> bool:
        """Return whether data may have been wiped or compacted in a span of time."""
        losses = [(era.began, era.exclusive_from) for era in self.eras[1:]]
        losses += [(fault.began, fault.ended) for fault in self.compactions]
        return any(loss <= ended and end >= began for loss, end in losses)


def log_of(history: History) -> Log:
    """Return the log of a history, cached until the history grows."""
    length, log = _LOGS.get(history, (0, None))
    if log is None or length != len(history):
        log = Log(history)
        _LOGS[history] = len(history), log
    return log


_LOGS: WeakKeyDictionary[History, tuple[int, Log]] = WeakKeyDictionary()


def check_log(history: History) -> list[Violation]:
    """Check that the log has no gaps, which all other checkers require."""
    found = []
    log = log_of(history)
    for fault in log.compactions:
        if fault.revision is None:
            found.append(Violation.of(COMPLETE, 'a compaction has no revision', fault))
    for change in history.of(Change):
        if change.era >= len(log.eras):
            text = f'a change has era {change.era}, but there were {len(log.eras)} eras'
            return [*found, Violation.of(COMPLETE, text, change)]
    for era in log.eras:
        last = 1  # that of an empty store
        for change in era.changes:
            if change.revision not in (last, last + 1):
                text = f'era {era.number} has no change between revisions {last} and {change.revision}'
                found.append(Violation.of(COMPLETE, text, change))
            last = change.revision
    return found


def _position(change: Change) -> tuple[int, int]:
    return change.revision, change.order


def _answers(history: History, eras: list[Era]) -> Iterator[tuple[Era, RevisionSample]]:
    """Yield samples of the revision from records that can belong to one era only."""
    for record in history:
        if isinstance(record, Call | Probe):
            if record.revision is not None:
                # Only probes do not use getc, whose responses might be wrong about revisions that come later.
                began = record.began if isinstance(record, Probe) else -math.inf
                for era in eras:
                    if era.answers_only(record.began, record.ended):
                        yield era, RevisionSample(began, record.ended, record.revision, record)
        elif isinstance(record, WatchEvent | TokenCheck):
            revision = record.token if isinstance(record, TokenCheck) else record.revision
            possible = [] if revision is None else _eras_of_record(record, revision, eras)
            if len(possible) == 1 and revision is not None:
                yield possible[0], RevisionSample(-math.inf, record.at, revision, record)


def _eras_of_record(record: WatchEvent | TokenCheck, revision: int, eras: list[Era]) -> list[Era]:
    """Return the eras with the change of a record.  Records are made late, so their times do not identify the era."""
    value = record.value if isinstance(record, WatchEvent) else None
    if isinstance(record, WatchEvent) and (record.resync or value is None):
        return []
    changes = ((era, era.at(revision, record.key)) for era in eras if era.began <= record.at)
    return [era for era, change in changes if change is not None and value in (None, change.value)]
