"""etcd's own log, by eras: what was there at each revision, and when that was.

Records tell the time, and not always the era.  A wipe is a fault with a beginning and an end; what was under way
meanwhile may belong to the era before it or to the one after it, and what was not belongs to one.

Where a backup is restored, the next era begins with a copy of the changes of the era before, up to some revision.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from weakref import WeakKeyDictionary

from tests.faults.checking.timeline import Answer, Timeline
from tests.faults.checking.violation import Violation
from tests.faults.history import COMPACTION, RESTORE, WIPE, Call, Change, Claim, Fault, History, Probe, Seen

__all__ = ['Era', 'Log', 'check_log', 'log_of']

WHOLE = "etcd's log is whole, and the history says when it was wiped or compacted: else nothing can be judged."


class Era:
    """The log from one wipe or restore to the next.

    Attributes:
        number: Counts from 0.
        before: The era before; None for the first one.
        shared: The changes up to this revision are copies of those of the era before; 0 if there are none.
        began: Nothing of it was before this time: the wipe began.
        served: Nothing of the era before was answered from this time on: the wipe had ended.
        wiped: When the next wipe began.
        over: When the next wipe had ended.
        changes: All of it, in order.
        last: The last revision.
        timeline: When the revisions happened.
    """

    def __init__(
        self, number: int, changes: list[Change], begin: Fault | None, end: Fault | None, before: Era | None
    ) -> None:
        self.number = number
        self.before = before
        self.began, self.served = (0.0, 0.0) if begin is None else (begin.began, begin.ended)
        self.wiped, self.over = (math.inf, math.inf) if end is None else (end.began, end.ended)
        self.changes = sorted(changes, key=_place)
        self.shared = 0
        if begin is not None and begin.name == RESTORE and before is not None:
            assert begin.revision is not None
            self._take_backup(before.changes, begin.revision)
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

    def _take_backup(self, former: Sequence[Change], certain: int) -> None:
        """Begin with the changes of the era before that the backup had.

        It had those up to the certain revision, which were not read again, and may have had some of those that
        followed: all up to the first difference.
        """
        later = [change for change in former if change.revision > certain]
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
        copies = [replace(change, era=self.number) for change in former if change.revision <= certain]
        self.changes = [*copies, *self.changes]

    def not_yet_at(self, revision: int) -> float:
        """The last time at which a revision is known not to have happened, be it in an era before."""
        if self.before is not None and revision <= self.shared:
            return self.before.not_yet_at(revision)
        return self.timeline.not_yet_at(revision)

    def has_copy_of(self, change: Change) -> bool:
        """True if a change was made in an era before, and came with a backup."""
        return change.revision <= self.shared

    def of_key(self, key: str) -> list[Change]:
        """The changes of one key, in order."""
        return self._of_key.get(key, [])

    def of_value(self, value: str) -> list[Change]:
        """The changes that wrote a value, in order."""
        return self._of_value.get(value, [])

    def at(self, revision: int, key: str) -> Change | None:
        """The change of a key in a revision."""
        return self._at.get((revision, key))

    def state(self, key: str, revision: int) -> Change | None:
        """The change that made a key what it was at a revision; None if it was not there."""
        changes = self.of_key(key)
        found = bisect_right(changes, revision, key=lambda change: change.revision)
        return changes[found - 1] if found and changes[found - 1].value is not None else None

    def may_have_answered(self, began: float, ended: float) -> bool:
        """True if a request that was under way from then to then may have been about this era."""
        return ended >= self.began and began <= self.over

    def answered(self, began: float, ended: float) -> bool:
        """True if it can have been about no other era."""
        return began >= self.served and ended <= self.wiped


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
        answers: dict[Era, list[Answer]] = defaultdict(list)
        for era, answer in _answers(history, self.eras):
            answers[era].append(answer)
        for era in self.eras:
            era.timeline = Timeline(answers[era], era.began)

    def eras_of(self, began: float, ended: float) -> list[Era]:
        """The eras that a request may have been about that was under way from then to then."""
        return [era for era in self.eras if era.may_have_answered(began, ended)]

    def compaction_beyond(self, era: Era, revision: int, time: float) -> int | None:
        """The least revision beyond one up to which the history of an era may have been compacted by a time."""
        compacted = (
            fault.revision
            for fault in self.compactions
            if fault.revision is not None and fault.began <= time and era.may_have_answered(fault.began, fault.ended)
        )
        return min((up_to for up_to in compacted if up_to > revision), default=None)

    def has_lost(self, began: float, ended: float) -> bool:
        """True if something may have been wiped or compacted in that time."""
        losses = [(era.began, era.served) for era in self.eras[1:]]
        losses += [(fault.began, fault.ended) for fault in self.compactions]
        return any(loss <= ended and end >= began for loss, end in losses)


def log_of(history: History) -> Log:
    """The log of a history.  It is made once, and again if the history has grown."""
    length, log = _LOGS.get(history, (0, None))
    if log is None or length != len(history):
        log = Log(history)
        _LOGS[history] = len(history), log
    return log


_LOGS: WeakKeyDictionary[History, tuple[int, Log]] = WeakKeyDictionary()


def check_log(history: History) -> list[Violation]:
    """Look for holes in what the other checkers build on."""
    found = []
    log = log_of(history)
    for fault in log.compactions:
        if fault.revision is None:
            found.append(Violation.of(WHOLE, 'a compaction has no revision', fault))
    for change in history.of(Change):
        if change.era >= len(log.eras):
            text = f'there is a change of era {change.era}, and there were {len(log.eras)} eras'
            return [*found, Violation.of(WHOLE, text, change)]
    for era in log.eras:
        last = 1  # that of an empty store
        for change in era.changes:
            if change.revision not in (last, last + 1):
                text = f'era {era.number} has nothing between the revisions {last} and {change.revision}'
                found.append(Violation.of(WHOLE, text, change))
            last = change.revision
    return found


def _place(change: Change) -> tuple[int, int]:
    return change.revision, change.order


def _answers(history: History, eras: list[Era]) -> Iterator[tuple[Era, Answer]]:
    """What is known of how far etcd was, from what can have been about one era only."""
    for record in history:
        if isinstance(record, Call | Probe):
            if record.revision is not None:
                # Only a probe does without the code under test, which might be wrong about what is still to come.
                began = record.began if isinstance(record, Probe) else -math.inf
                for era in eras:
                    if era.answered(record.began, record.ended):
                        yield era, Answer(began, record.ended, record.revision, record)
        elif isinstance(record, Seen | Claim):
            revision = record.token if isinstance(record, Claim) else record.revision
            told = [] if revision is None else _told_of(record, revision, eras)
            if len(told) == 1 and revision is not None:
                yield told[0], Answer(-math.inf, record.at, revision, record)


def _told_of(record: Seen | Claim, revision: int, eras: list[Era]) -> list[Era]:
    """The eras that it can be about: those that have such a change.  Neither is told at once, so its time says less."""
    value = record.value if isinstance(record, Seen) else None
    if isinstance(record, Seen) and (record.resync or value is None):
        return []
    changes = ((era, era.at(revision, record.key)) for era in eras if era.began <= record.at)
    return [era for era, change in changes if change is not None and value in (None, change.value)]
