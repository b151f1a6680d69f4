"""Checks writes: each is in etcd's log at most once, and is there or not as its outcome says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from getc.paths import is_below
from tests.faults.checking.log import Era, Log, log_of
from tests.faults.checking.registers import PRECONDITIONS
from tests.faults.checking.violation import Violation
from tests.faults.history import Call, Change, History, Outcome

__all__ = ['check_writes']

ONCE = 'A write is applied at most once.'
NOT_APPLIED = 'A write that reported "not applied" or an error of etcd is not applied.'
ACKNOWLEDGED_IS_LOGGED = "An acknowledged write is in etcd's log at the reported revision."


def check_writes(history: History) -> list[Violation]:
    """Compare the outcomes of writes with the log."""
    log = log_of(history)
    calls = [call for call in history.of(Call) if not call.kind.endswith('get')]
    return [*_value_violations(log, calls), *_deletion_violations(log, calls)]


def _value_violations(log: Log, calls: list[Call]) -> Iterator[Violation]:
    for call in calls:
        if call.value is None or call.kind == 'delete':
            continue
        changes = [
            change for era in log.eras for change in era.of_value(call.value) if not era.has_copy_of(change)
        ]  # fmt: skip
        if len(changes) > 1:
            yield Violation.of(ONCE, f'{call.value} is in the log {len(changes)} times', call, *changes)
        if call.outcome in (Outcome.NOT_APPLIED, Outcome.REFUSED) and changes:
            yield Violation.of(NOT_APPLIED, f'{call.value} is in the log', call, *changes)
        elif call.outcome is Outcome.DONE:
            text = _misplacement(call, changes, log.eras_of(call.began, call.ended))
            if text is not None:
                yield Violation.of(ACKNOWLEDGED_IS_LOGGED, text, call, *changes)


def _misplacement(call: Call, changes: list[Change], eras: list[Era]) -> str | None:
    numbers = [era.number for era in eras]
    there = [change for change in changes if _is_of(change, call) and change.era in numbers]
    if not there:
        return f'{call.value} is not in the log of {call.key} in the era of the call'
    if call.modified is not None and all(change.revision != call.modified for change in there):
        return f'{call.value} was written at revision {there[0].revision}, not {call.modified}'
    return None


def _is_of(change: Change, call: Call) -> bool:
    return is_below(change.key, call.key) if call.kind == 'append' else change.key == call.key


def _deletion_violations(log: Log, calls: list[Call]) -> Iterator[Violation]:
    """Check deletions, which have no value: each is identified by its revision, or made by an unanswered call."""
    registers = {call.key for call in calls if call.kind in PRECONDITIONS}
    deletes: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        if call.kind == 'delete':
            deletes[call.key].append(call)
    claimed: dict[Change, Call] = {}
    for call in (call for key in deletes for call in deletes[key] if call.outcome is Outcome.DONE):
        change = _deletion_of(call, log.eras_of(call.began, call.ended))
        if change is None:
            yield Violation.of(
                ACKNOWLEDGED_IS_LOGGED, f'no deletion of {call.key} is in the log at the reported revision', call
            )
        elif change in claimed:
            text = f'two calls report the same deletion of {call.key} at revision {change.revision}'
            yield Violation.of(ACKNOWLEDGED_IS_LOGGED, text, claimed[change], call, change)
        else:
            claimed[change] = call
    for era in log.eras:
        for key in sorted(registers):
            deletions = [change for change in era.of_key(key) if change.value is None and not era.has_copy_of(change)]
            unclaimed = [change for change in deletions if change not in claimed]
            yield from _unexplained(era, unclaimed, deletes[key])


def _deletion_of(call: Call, eras: list[Era]) -> Change | None:
    revision = call.revision if call.modified is None else call.modified
    changes = (era.at(revision, call.key) for era in eras if revision is not None)
    return next((change for change in changes if change is not None and change.value is None), None)


def _unexplained(era: Era, unclaimed: list[Change], deletes: list[Call]) -> Iterator[Violation]:
    """Report deletions that unanswered calls cannot have made; each such call may have made one."""
    unanswered = sorted(call.began for call in deletes if call.outcome is Outcome.AMBIGUOUS)
    failed = [call for call in deletes if call.outcome in (Outcome.NOT_APPLIED, Outcome.REFUSED)]
    by_time = sorted(unclaimed, key=lambda change: era.timeline.happened_by(change.revision))
    for number, change in enumerate(by_time):
        if number >= len(unanswered) or unanswered[number] > era.timeline.happened_by(change.revision):
            earliest, latest = era.timeline.not_yet_at(change.revision), era.timeline.happened_by(change.revision)
            suspects = [call for call in failed if call.began <= latest and call.ended >= earliest]
            text = f'{change.key} was deleted at revision {change.revision} by none of the unanswered calls'
            yield Violation.of(NOT_APPLIED, text, *suspects, change)
            return
