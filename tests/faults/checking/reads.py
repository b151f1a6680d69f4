"""Readings: what each call of a register was told is what etcd's log has, at a revision that fits its time.

The log gives the true order of all writes, so this needs no search, and looks at every call by itself.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from tests.faults.checking.linearizability import Needs, Step
from tests.faults.checking.log import Era, Log, log_of
from tests.faults.checking.registers import step_of
from tests.faults.checking.timeline import Answer, Timeline
from tests.faults.checking.violation import Violation
from tests.faults.history import Call, Change, History, Outcome

__all__ = ['check_readings']

TRUE: Final = "What a call is told of a register is what etcd's log has at that revision."
FRESH: Final = 'A linearizable call sees everything that was known before it was made.'
CAUSAL: Final = 'Nothing is seen, or acknowledged, before it happened.'
FORWARD: Final = 'A client never sees a register as it was before what that client has seen already, whatever it asks.'


def check_readings(history: History) -> list[Violation]:
    """Compare each call with the log."""
    log = log_of(history)
    clients = _Clients(history, log)
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


class _Clients:
    """How far each client had seen etcd, in each era, by its own calls."""

    def __init__(self, history: History, log: Log) -> None:
        answers: dict[tuple[str, int], list[Answer]] = defaultdict(list)
        for call in history.of(Call):
            for era in log.eras:
                if call.revision is not None and era.answered(call.began, call.ended):
                    answers[call.client, era.number].append(Answer(call.began, call.ended, call.revision, call))
        self._timelines = {place: Timeline(found, 0.0) for place, found in answers.items()}

    def of(self, client: str, era: Era) -> Timeline:
        """The time line of one."""
        return self._timelines.get((client, era.number)) or Timeline((), 0.0)


def _violation(call: Call, era: Era, clients: _Clients) -> Violation | None:
    """Why the call does not fit the era; None if it does, or says nothing."""
    if call.kind == 'serializable get':
        return _violation_of_old_read(call, era, clients.of(call.client, era))
    step = step_of(call)
    if step is None:
        return None
    if step.writes:
        return _violation_of_write(call, step, era)
    if call.revision is None:
        return None
    return _untrue(call, step, era) or _stale(call, era, call.revision) or _premature(call, era, call.revision)


def _violation_of_old_read(call: Call, era: Era, seen: Timeline) -> Violation | None:
    is_absence = call.value is None and (call.outcome is Outcome.DONE or call.error == 'KeyNotFound')
    if call.revision is None or not (is_absence or call.outcome is Outcome.DONE):
        return None
    step = Step(call.began, call.ended, Needs.ABSENCE if is_absence else Needs.VALUE, call.value)
    violation = _untrue(call, step, era)
    known = seen.reached_before(call.began)
    if violation is None and known > call.revision:
        text = f'{call.client} had seen revision {known}, and was told of revision {call.revision}'
        violation = Violation.of(FORWARD, text, seen.witness_before(call.began), call)
    return violation or _premature(call, era, call.revision)


def _violation_of_write(call: Call, step: Step, era: Era) -> Violation | None:
    change = _change_of(call, era)
    if change is None:
        return None  # whether it has to be there the checker of writes says
    before = _value(era.state(call.key, change.revision - 1))
    if not step.fits(before):
        text = f'{call.key} was {before!r} before revision {change.revision}, which the call made'
        return Violation.of(TRUE, text, change, call)
    if era.timeline.reached_before(call.began) >= change.revision:
        text = f'revision {change.revision} was known before the call that made it'
        return Violation.of(CAUSAL, text, era.timeline.witness_before(call.began), call, change)
    return None if call.outcome is Outcome.AMBIGUOUS else _premature(call, era, change.revision)


def _change_of(call: Call, era: Era) -> Change | None:
    """The change in the log that the call made, if it made one."""
    if call.kind != 'delete':
        return next((change for change in era.of_value(call.value or '') if change.key == call.key), None)
    revision = call.revision if call.modified is None else call.modified
    change = None if revision is None else era.at(revision, call.key)
    return change if change is not None and change.value is None else None


def _value(change: Change | None) -> str | None:
    return None if change is None else change.value


def _untrue(call: Call, step: Step, era: Era) -> Violation | None:
    """It was not so at the revision of the answer."""
    assert call.revision is not None
    if call.revision > era.last:
        return Violation.of(TRUE, f'revision {call.revision} of era {era.number} is not in the log', call)
    state = era.state(call.key, call.revision)
    if step.fits(_value(state)):
        return None
    text = f'{call.key} was {_value(state)!r} at revision {call.revision}'
    return Violation.of(TRUE, text, state, call)


def _stale(call: Call, era: Era, revision: int) -> Violation | None:
    """The revision was over when the call was made."""
    known = era.timeline.reached_before(call.began)
    if known <= revision:
        return None
    text = f'revision {known} was known before the call was made, and it was told of revision {revision}'
    return Violation.of(FRESH, text, era.timeline.witness_before(call.began), call)


def _premature(call: Call, era: Era, revision: int) -> Violation | None:
    """The revision had not come when the call ended."""
    later = era.timeline.not_passed_at(call.ended)
    if later >= revision:
        return None
    text = f'it was told of revision {revision}, and etcd was at {later:.0f} when it was asked after that'
    return Violation.of(CAUSAL, text, call, era.timeline.witness_after(call.ended))
