"""Checks each call on a register against etcd's log.

The log has the real order of all writes, so no search is necessary, and each call is checked separately.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from tests.faults.checking.linearizability import Precondition, Step
from tests.faults.checking.log import Era, Log, log_of
from tests.faults.checking.registers import step_of
from tests.faults.checking.timeline import RevisionSample, Timeline
from tests.faults.checking.violation import Violation
from tests.faults.history import Call, Change, History, Outcome

__all__ = ['check_reads']

MATCHES_LOG: Final = "The result of a call is the value in etcd's log at the revision of the response."
LINEARIZABLE: Final = 'A linearizable call sees every change that was known before it was made.'
NOT_BEFORE_CAUSE: Final = 'No change is seen or acknowledged before it happened.'
MONOTONIC: Final = 'A client never reads a state of a register older than what that client has seen.'


def check_reads(history: History) -> list[Violation]:
    """Compare each call with the log."""
    log = log_of(history)
    clients = _ClientTimelines(history, log)
    found = []
    for call in history.of(Call):
        violations = []
        for era in log.eras_of(call.began, call.ended):
            violation = _violation(call, era, clients)
            if violation is None:
                break
            violations.append(violation)
        else:
            found += violations[:1]
    return found


class _ClientTimelines:
    """The revisions that each client had seen by its own calls, in each era."""

    def __init__(self, history: History, log: Log) -> None:
        answers: dict[tuple[str, int], list[RevisionSample]] = defaultdict(list)
        for call in history.of(Call):
            for era in log.eras:
                if call.revision is not None and era.answers_only(call.began, call.ended):
                    answers[call.client, era.number].append(RevisionSample(call.began, call.ended, call.revision, call))
        self._timelines = {place: Timeline(found, 0.0) for place, found in answers.items()}

    def of(self, client: str, era: Era) -> Timeline:
        """Return the timeline of a client."""
        return self._timelines.get((client, era.number)) or Timeline((), 0.0)


def _violation(call: Call, era: Era, clients: _ClientTimelines) -> Violation | None:
    """Return why the call does not fit an era; None if it does."""
    if call.kind == 'serializable get':
        return _violation_of_serializable_read(call, era, clients.of(call.client, era))
    step = step_of(call)
    if step is None:
        return None
    if step.writes:
        return _violation_of_write(call, step, era)
    if call.revision is None:
        return None
    return _mismatch(call, step, era) or _stale(call, era, call.revision) or _premature(call, era, call.revision)


def _violation_of_serializable_read(call: Call, era: Era, seen: Timeline) -> Violation | None:
    is_absence = call.value is None and (call.outcome is Outcome.DONE or call.error == 'KeyNotFound')
    if call.revision is None or not (is_absence or call.outcome is Outcome.DONE):
        return None
    step = Step(call.began, call.ended, Precondition.ABSENCE if is_absence else Precondition.VALUE, call.value)
    violation = _mismatch(call, step, era)
    known = seen.reached_before(call.began)
    if violation is None and known > call.revision:
        text = f'{call.client} had seen revision {known}, and then read revision {call.revision}'
        violation = Violation.of(MONOTONIC, text, seen.evidence_before(call.began), call)
    return violation or _premature(call, era, call.revision)


def _violation_of_write(call: Call, step: Step, era: Era) -> Violation | None:
    change = _change_of(call, era)
    if change is None:
        return None  # a missing change is reported by the checker of writes
    before = _value(era.state(call.key, change.revision - 1))
    if not step.is_possible_in(before):
        text = f'{call.key} was {before!r} before revision {change.revision}, the change of the call'
        return Violation.of(MATCHES_LOG, text, change, call)
    if era.timeline.reached_before(call.began) >= change.revision:
        text = f'revision {change.revision} was known before the call that made it'
        return Violation.of(NOT_BEFORE_CAUSE, text, era.timeline.evidence_before(call.began), call, change)
    return None if call.outcome is Outcome.AMBIGUOUS else _premature(call, era, change.revision)


def _change_of(call: Call, era: Era) -> Change | None:
    """Return the change that the call made, or None."""
    if call.kind != 'delete':
        return next((change for change in era.of_value(call.value or '') if change.key == call.key), None)
    revision = call.revision if call.modified is None else call.modified
    change = None if revision is None else era.at(revision, call.key)
    return change if change is not None and change.value is None else None


def _value(change: Change | None) -> str | None:
    return None if change is None else change.value


def _mismatch(call: Call, step: Step, era: Era) -> Violation | None:
    """The result is not the state at the revision of the response."""
    assert call.revision is not None
    if call.revision > era.last:
        return Violation.of(MATCHES_LOG, f'revision {call.revision} of era {era.number} is not in the log', call)
    state = era.state(call.key, call.revision)
    if step.is_possible_in(_value(state)):
        return None
    text = f'{call.key} was {_value(state)!r} at revision {call.revision}'
    return Violation.of(MATCHES_LOG, text, state, call)


def _stale(call: Call, era: Era, revision: int) -> Violation | None:
    """The revision is older than one that was known before the call."""
    known = era.timeline.reached_before(call.began)
    if known <= revision:
        return None
    text = f'revision {known} was known before the call was made, but the response has revision {revision}'
    return Violation.of(LINEARIZABLE, text, era.timeline.evidence_before(call.began), call)


def _premature(call: Call, era: Era, revision: int) -> Violation | None:
    """The revision had not happened when the call ended."""
    later = era.timeline.not_passed_at(call.ended)
    if later >= revision:
        return None
    text = f'the response has revision {revision}, but a later request found etcd at revision {later:.0f}'
    return Violation.of(NOT_BEFORE_CAUSE, text, call, era.timeline.evidence_after(call.ended))
